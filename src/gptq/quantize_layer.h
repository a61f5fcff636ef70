// GPTQ on one decoder layer: from the Gram matrices of what its linears read, quantized as they
// will be, to integer weights. No training.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "gptq/options.h"
#include "model/decoder_layer.h"
#include "model/online_transform.h"
#include "quant/gptq.h"
#include "quant/int_weight.h"

namespace laos::gptq {

// What each linear of a layer is quantized to; nullopt = it is left alone.
using LayerScheme = model::PerLinear<std::optional<quant::LinearScheme>>;

// As many tokens for each input of a linear are enough to solve for its codes.
inline constexpr int64_t kEnoughForEachInput = 4;

// Where refits are chosen by tokens that they are not fitted to, one in so many of each piece is
// held back for that, its last ones, kMaxHeldBack at most in all. Codes are solved with these too.
inline constexpr int64_t kHeldBackOf = 8, kMaxHeldBack = 2048;

// Xqᵀ Xq, and Xqᵀ X for refit, over all observed samples: X what a linear reads, Xq the same after
// the dynamic quantization of its scheme (X itself where activations are float or static). One of
// each per linear group and width, f32, the sums in the order of observation. In bf16 both are
// rounded to bfloat16 before they are multiplied.
//
// A routed expert sees the tokens that go to it. Where these are fewer than enough, missing() of
// them, take() adds as many average ones: for gate and up of all tokens of the layer; for down,
// whose inputs have another meaning in every expert, inputs that do not depend on each other and
// have the mean square of those of all experts, in the metric of which codes are those of rounding
// to nearest. An expert that no token goes to is solved by these alone.
class InputGrams {
 public:
  // `config` and `online` must outlive this.
  InputGrams(const hf::Config& config, const LayerScheme& scheme,
             const model::OnlineTransforms& online, const GptqOptions& options);

  // A piece of the samples, as forward_all shows it.
  void observe(const model::LayerSaved<float>& saved, int64_t num_tokens);

  struct Gram {
    model::LinearGroup group;
    int act_bits;        // 16: not quantized
    Mat<float> hessian;  // [in, in]
    Mat<float> cross;    // [in, in]; empty without refit
    int64_t num_tokens = 0;
    // Rows of X and Xq that are held back, not in the products yet, and how many; [kMaxHeldBack,
    // in], empty where refits are not chosen.
    Mat<float> held = {}, held_quantized = {};
    int64_t num_held = 0;
  };
  // Memory for operands rounded to bfloat16, kept from piece to piece.
  struct Narrowed {
    Buffer<uint16_t> xq, x;
  };
  const Gram& of(model::LinearGroup group, const quant::ActSpec& act) const;
  const std::vector<Gram>& all() const noexcept { return grams_; }
  std::vector<Gram> take() &&;
  // GptqOptions::damp of so many inputs where it goes by the tokens: half of what there are inputs
  // for each token, 0.05 to 1. By what was best on real models, see docs/accuracy.md.
  static double damping(int64_t in_features, int64_t num_tokens) noexcept {
    const auto tokens = static_cast<double>(std::max<int64_t>(1, num_tokens));
    return std::clamp(0.5 * static_cast<double>(in_features) / tokens, 0.05, 1.0);
  }
  // Tokens that a gram of a routed expert is short of.
  static int64_t missing(const Gram& gram) noexcept {
    return std::max<int64_t>(0, kEnoughForEachInput * gram.hessian.rows() - gram.num_tokens);
  }

 private:
  void observe(Gram& gram, MatView<const float> input);
  void add_average(Gram& gram) const;

  const hf::Config& config_;
  const model::OnlineTransforms& online_;
  const GptqOptions options_;
  Narrowed narrowed_;
  std::vector<Gram> grams_;
  std::vector<Gram> of_all_;  // what gate and up of all experts read, by width
  double down_square_ = 0;    // of what down of all experts reads, the sum
  int64_t num_down_ = 0;      // of so many values
};

// Integer weights of the linears in `scheme`; entries of others are empty. Linears of a group that
// share a scheme are solved together, and matrices of `grams` are freed as soon as they were used:
// beside them there is one more of the largest's size. Where `refits` is not null it gets what the
// linears that are refitted took. Same arguments, same bytes, on any number of threads. Throws
// Error(kNumeric) as quant::quantize_gptq does, naming the linear inside the layer.
model::PerLinear<quant::IntWeight> quantize_layer(const hf::Config& config,
                                                  const model::LayerWeights& weights,
                                                  const LayerScheme& scheme,
                                                  const GptqOptions& options, InputGrams grams,
                                                  model::PerLinear<quant::Refit>* refits = nullptr);

// What InputGrams and quantize_layer take for a layer over `tokens` tokens, observed in pieces of
// at most `piece_tokens`; routed experts see their share of them. `is_transformed`: inputs of
// linears are transformed online.
struct Cost {
  double flops = 0;
  double grams = 0;  // of these: the products of inputs, which are in their own dtype
  // Bytes at once, beside the layer's weights and codes: of InputGrams in observe(), and in
  // quantize_layer().
  int64_t observing = 0, solving = 0;
};
Cost cost_of(const hf::Config& config, const LayerScheme& scheme, const GptqOptions& options,
             int64_t tokens, int64_t piece_tokens, bool is_transformed);

}  // namespace laos::gptq
