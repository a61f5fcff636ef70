// A checkpoint, float or quantized, as something that runs forward.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/emulation.h"
#include "hf/config.h"
#include "model/decoder_layer.h"
#include "model/hidden_states.h"

namespace laos::eval {

// A decoder layer ready to run; float weights in f32, quantized linears in integers: int8 codes,
// int32 accumulation, dynamic per-token activations.
class EvalLayer {
 public:
  virtual ~EvalLayer() = default;
  virtual model::LayerNorms<float> norms() const = 0;
  virtual model::LinearsForward<float>& linears() = 0;
};

// How a checkpoint computes. kExact: linears under an integer label in exact integer products with
// their stored scales, everything else in f32. kVllmAscend: as the engine does, see Emulation.
// kTransformers: likewise exact, with the steps that the compressed-tensors package gives dynamic
// inputs, max|x| / 127.5 or / 7.5.
enum class Arithmetic { kExact, kVllmAscend, kTransformers };

// Weights are read a layer at a time. Layers must not outlive the model, whose files they may read.
class EvalModel {
 public:
  virtual ~EvalModel() = default;
  virtual const hf::Config& config() const = 0;
  // Label of a linear's scheme; "" in a float checkpoint.
  virtual std::string label(const std::string& /*linear*/) const { return ""; }
  virtual std::unique_ptr<EvalLayer> load_layer(int64_t layer_idx) const = 0;
  // The same for running token by token: weights stay where and as the checkpoint's files hold
  // them, and what a token gets does not depend, bit for bit, on the tokens that run beside it.
  virtual std::unique_ptr<EvalLayer> load_resident_layer(int64_t layer_idx) const = 0;
  // The same for few tokens and one pass: float weights are widened a few rows at a time, into
  // memory that the model keeps, so that one such layer runs at a time.
  virtual std::unique_ptr<EvalLayer> load_streamed_layer(int64_t layer_idx) const {
    return load_layer(layer_idx);
  }
  virtual TensorView embed_tokens() const = 0;  // [vocab_size, hidden_size], a float dtype
  virtual TensorView lm_head() const = 0;       // likewise
  virtual Mat<float> final_norm() const = 0;    // [1, hidden_size]
  virtual int64_t weight_bytes() const = 0;     // of all tensors in the checkpoint's files
  // Takes what was read of the files out of the process, see io::drop_pages: for those who stream
  // layers, so that memory does not grow with their number.
  virtual void drop_pages() const noexcept = 0;
  // Null but for Arithmetic::kVllmAscend.
  virtual const Emulation* emulation() const = 0;
};

// Opens a Hugging Face float checkpoint or a quantized one (see hf::open_quantized).
// Throws Error as model::Checkpoint::open and hf::open_quantized do; kUnsupported for a
// label without an integer path.
std::unique_ptr<EvalModel> open_eval_model(const std::filesystem::path& directory,
                                           Arithmetic arithmetic = Arithmetic::kExact);

// Tokens that run through a model at once, or a window of more.
inline constexpr int64_t kEvalTokens = 2048;

// Applies the final norm to every row.
void normalize_final(const EvalModel& model, model::HiddenStates& states);

// Called with the number of layers that are done.
using LayersDone = std::function<void(int64_t)>;

// The normalised output of the last layer for every token of every sequence: what lm_head reads.
model::HiddenStates final_hidden(const EvalModel& model,
                                 const std::vector<std::vector<int32_t>>& sequences,
                                 const LayersDone& progress = nullptr);

}  // namespace laos::eval
