// Stage 1 of adapt_rotation: an orthogonal matrix fitted to calibration activations.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/hidden_states.h"
#include "rotation/options.h"

namespace laos::rotation {

// The linears of a decoder layer whose name contains one of `layer_type`. Throws Error(kRecipe)
// when there is none, or when one does not read the residual stream (o_proj, down_proj), which no
// global rotation reaches.
std::vector<model::Linear> fitted_linears(const hf::Config& config, const FitOptions& options);

// Rows that stage 1 keeps of samples like these: every layer gives, of each sample and distinct
// input of the fitted linears, `chunks` rows or one a token, but at most max_samples.
int64_t num_fit_rows(const hf::Config& config, const FitOptions& options,
                     const model::Ragged& samples, int64_t chunks);
// Tokens that are enough for a fit to token ranges, a row a token and fitted input: they give twice
// the rows that are kept of a layer.
int64_t enough_tokens(const hf::Config& config, const FitOptions& options);
// The fewest chunks that give at least hidden_size rows, so that the fit says something about every
// direction; 1 as published where that is enough. 0 when even a row a token is not.
int64_t chunks_for_full_rank(const hf::Config& config, const FitOptions& options,
                             const model::Ragged& samples);

// Collects the token means of the inputs of the fitted linears, layer by layer: of each sample cut
// into `chunks` equal parts (fewer when it is shorter), one row a part. One chunk is the published
// way; as many as the longest sample has tokens is a row a token. Of a layer's rows max_samples at
// most are kept, spread evenly.
class ActivationRows {
 public:
  // `samples`: all that a layer will see. With a `share` of them, of whole pieces, only those are
  // observed and only the rows that they give are collected.
  ActivationRows(const hf::Config& config, FitOptions options, const model::Ragged& samples,
                 int64_t chunks, const model::SampleRange* share = nullptr);

  // Of the rows kept of a layer, [first, last) come from the share.
  struct RowRange {
    int64_t first, last;
  };
  RowRange kept_rows() const noexcept { return {first_kept_, last_kept_}; }
  int64_t rows_per_layer() const noexcept { return num_kept_; }

  // Adds the rows of a piece of the current layer's samples, as forward_all observes them.
  void observe(const model::Ragged& batch, model::LayerSaved<float>& saved);
  void finish_layer();

  // [num_fit_rows, hidden_size], or those of the share layer by layer, when all layers are
  // finished.
  Mat<float> take();

 private:
  // What q, k and v read, or what gate and up read, where the current sample has come to.
  struct Reader {
    bool is_fitted = false;
    int64_t sample = 0;             // of the layer
    std::vector<double> mean = {};  // of the part at work
  };
  int64_t wanted(int64_t kept) const noexcept;
  void begin_layer() noexcept;
  void add_means(const model::Ragged& batch, const Mat<float>& inputs, Reader& reader);

  const int64_t hidden_size_;
  const FitOptions options_;
  const model::Ragged samples_;
  const int64_t chunks_;
  Reader attention_input_, mlp_input_;
  int64_t num_rows_ = 0, num_kept_ = 0;                      // of a layer
  int64_t first_sample_ = 0, first_row_ = 0, last_row_ = 0;  // of the share
  int64_t first_kept_ = 0, last_kept_ = 0;
  int64_t row_ = 0, kept_ = 0;  // so far in this layer
  Mat<float> rows_;
  int64_t num_taken_ = 0;
};

struct FitStep {
  int64_t step;  // from 1; 0 = the plain Hadamard matrix
  double loss;  // ‖A - fq(A)‖_F / numel of the rotated rows, for kTokenRange of those held back
};

struct FitResult {
  Mat<float> rotation;  // [hidden_size, hidden_size], |RᵀR - I| < 1e-5
  int64_t best_step = 0;
  std::vector<FitStep> steps;  // the first is step 0; not every step need be there
  double orthogonality = 0;
};

// An orthogonal H0 R that makes rows H0 R cheap to quantize row by row, H0 the plain Hadamard
// matrix. kProcrustes alternates quantization of A = rows H0 R and the orthogonal matrix nearest to
// mapping A onto it; where the rows say nothing (fewer rows than hidden_size) each step is the
// identity. kTokenRange is fit_token_range. Both keep the best R seen, and R = I is a candidate, so
// that the result is never worse than H0. `rows` is overwritten. Throws Error(kData) when there are
// no rows, Error(kUnsupported) when RandomHadamard has no matrix of hidden_size.
FitResult fit_rotation(Mat<float> rows, const FitOptions& options,
                       const std::function<void(const FitStep&)>& progress = nullptr);

// Operations and bytes at once of fit_rotation over `num_rows` rows of `n`.
double fit_flops(const FitOptions& options, int64_t num_rows, int64_t n);
int64_t fit_bytes(const FitOptions& options, int64_t num_rows, int64_t n);

}  // namespace laos::rotation
