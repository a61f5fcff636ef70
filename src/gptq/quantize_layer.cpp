#include "gptq/quantize_layer.h"

#include <algorithm>
#include <span>
#include <utility>

#include "linalg/gemm.h"
#include "quant/gptq.h"

namespace laos::gptq {

using linalg::Trans;
using model::Linear;
using model::LinearGroup;

namespace {

// Bits that a linear's input has when the product is formed; static ranges are not known yet.
int bits_of(const quant::ActSpec& act) noexcept { return act.is_static ? 16 : act.bits; }

// The linears of a group that have this scheme.
std::vector<Linear> members(LinearGroup group, const LayerScheme& scheme,
                            const quant::LinearScheme& wanted) {
  std::vector<Linear> linears;
  for (const Linear l : model::linears_of(group))
    if (scheme[static_cast<size_t>(l)] == wanted) linears.push_back(l);
  return linears;
}

}  // namespace

InputGrams::InputGrams(const hf::Config& config, const LayerScheme& scheme,
                       const model::OnlineRotation& online, bool with_cross)
    : online_(online) {
  for (const LinearGroup group : model::kAllLinearGroups) {
    for (const Linear l : model::linears_of(group)) {
      const auto& linear = scheme[static_cast<size_t>(l)];
      if (!linear) continue;
      const int bits = bits_of(linear->act);
      if (std::any_of(grams_.begin(), grams_.end(), [&](const Gram& gram) {
            return gram.group == group && gram.act_bits == bits;
          }))
        continue;
      const int64_t n = model::in_features(config, l);
      grams_.push_back(
          {group, bits, Mat<float>(n, n), with_cross ? Mat<float>(n, n) : Mat<float>()});
      grams_.back().hessian.fill_zero();
      grams_.back().cross.fill_zero();
    }
  }
}

void InputGrams::observe(const model::LayerSaved<float>& saved, int64_t num_tokens) {
  for (Gram& gram : grams_) {
    const MatView<const float> input = saved.input_of(gram.group).view().slice_rows(0, num_tokens);
    Mat<float> rotated;
    if (const model::KroneckerRotation* rotation = online_.of(gram.group)) {
      rotated = Mat<float>(input.rows, input.cols);
      rotation->apply(input, rotated.view());
    }
    const MatView<const float> x = rotated.size() != 0 ? std::as_const(rotated).view() : input;
    Mat<float> quantized;
    if (gram.act_bits < 16) {
      quantized = Mat<float>(x.rows, x.cols);
      quant::fake_quantize_tokens(x, {.bits = gram.act_bits}, quantized.view());
    }
    const MatView<const float> xq = quantized.size() != 0 ? std::as_const(quantized).view() : x;
    linalg::gram(xq, gram.hessian.view(), 1.0f);
    if (gram.cross.size() != 0)
      linalg::gemm(Trans::kYes, Trans::kNo, 1.0f, xq, x, 1.0f, gram.cross.view());
  }
}

const InputGrams::Gram& InputGrams::of(LinearGroup group, const quant::ActSpec& act) const {
  const auto found = std::find_if(grams_.begin(), grams_.end(), [&](const Gram& gram) {
    return gram.group == group && gram.act_bits == bits_of(act);
  });
  LAOS_ASSERT(found != grams_.end());
  return *found;
}

std::array<quant::IntWeight, model::kNumLinears> quantize_layer(const model::LayerWeights& weights,
                                                                const LayerScheme& scheme,
                                                                const GptqOptions& options,
                                                                const InputGrams& grams) {
  std::array<quant::IntWeight, model::kNumLinears> result;
  const quant::GptqOptions gptq = {.damp = options.damp, .act_order = options.act_order};
  for (const LinearGroup group : model::kAllLinearGroups) {
    for (const Linear first : model::linears_of(group)) {
      const auto& linear = scheme[static_cast<size_t>(first)];
      if (!linear || result[static_cast<size_t>(first)].q.size() != 0) continue;
      // Rows do not depend on each other, so that linears of one scheme are one weight.
      const std::vector<Linear> together = members(group, scheme, *linear);
      int64_t rows = 0;
      for (const Linear l : together) rows += weights[l].rows();
      Mat<float> stacked(rows, weights[first].cols());
      int64_t at = 0;
      for (const Linear l : together) {
        std::copy_n(weights[l].data(), weights[l].size(), stacked.row(at));
        at += weights[l].rows();
      }
      const InputGrams::Gram& gram = grams.of(group, linear->act);
      quant::IntWeight solved;
      try {
        if (options.refit && gram.cross.size() != 0)
          stacked = quant::refit(std::as_const(stacked).view(), gram.cross.view(),
                                 gram.hessian.view(), options.damp);
        solved = quant::quantize_gptq(std::as_const(stacked).view(), gram.hessian.view(),
                                      linear->weight, gptq);
      } catch (const Error& error) {
        std::vector<Problem> problems = error.problems();
        for (Problem& problem : problems)
          problem.where = std::string(model::path_of(first)) + ", " + problem.where;
        throw Error(error.code(), std::move(problems));
      }
      const int64_t scales_per_row = static_cast<int64_t>(solved.scale.size()) / rows;
      at = 0;
      for (const Linear l : together) {
        quant::IntWeight& part = result[static_cast<size_t>(l)];
        part.spec = solved.spec;
        part.q = Mat<int8_t>(weights[l].rows(), weights[l].cols());
        std::copy_n(solved.q.row(at), part.q.size(), part.q.data());
        const auto scale = solved.scale.begin() + at * scales_per_row;
        part.scale.assign(scale, scale + weights[l].rows() * scales_per_row);
        at += weights[l].rows();
      }
    }
  }
  return result;
}

}  // namespace laos::gptq
