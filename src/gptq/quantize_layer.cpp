#include "gptq/quantize_layer.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "quant/gptq.h"

namespace laos::gptq {

using linalg::Trans;
using model::Linear;
using model::LinearGroup;

namespace {

// Bits that a linear's input has when the product is formed; static ranges are not known yet.
int bits_of(const quant::ActSpec& act) noexcept { return act.is_static ? 16 : act.bits; }

// The groups with a linear in `scheme`, in order.
std::vector<LinearGroup> groups_of(const LayerScheme& scheme) {
  std::vector<LinearGroup> groups;
  for (int64_t i = 0; i < scheme.size(); ++i) {
    const auto linear = static_cast<Linear>(i);
    if (!scheme[linear]) continue;
    const LinearGroup group = hf::group_of(linear);
    if (groups.empty() || groups.back() != group) groups.push_back(group);
  }
  return groups;
}

// The linears that read the inputs of `gram`; those of one scheme stand together.
std::vector<Linear> readers_of(const InputGrams::Gram& gram, const LayerScheme& scheme) {
  std::vector<Linear> linears;
  for (const Linear l : model::linears_of(gram.group)) {
    const auto& linear = scheme[l];
    if (!linear || bits_of(linear->act) != gram.act_bits) continue;
    const auto same = std::find_if(linears.rbegin(), linears.rend(),
                                   [&](Linear other) { return scheme[other] == linear; });
    linears.insert(same == linears.rend() ? linears.end() : same.base(), l);
  }
  return linears;
}

int64_t rows_of(const model::LayerWeights& weights, std::span<const Linear> linears) {
  int64_t rows = 0;
  for (const Linear l : linears) rows += weights[l].rows();
  return rows;
}

// The reverse of model::stack.
void scatter(const quant::IntWeight& solved, const model::LayerWeights& weights,
             std::span<const Linear> linears, model::PerLinear<quant::IntWeight>& result) {
  const int64_t scales_per_row = static_cast<int64_t>(solved.scale.size()) / solved.q.rows();
  int64_t row = 0;
  for (const Linear l : linears) {
    quant::IntWeight& part = result[l];
    part.spec = solved.spec;
    part.q = Mat<int8_t>(weights[l].rows(), weights[l].cols());  // [out, in]
    std::copy_n(solved.q.row(row), part.q.size(), part.q.data());
    const auto scale = solved.scale.begin() + row * scales_per_row;
    part.scale.assign(scale, scale + weights[l].rows() * scales_per_row);
    row += weights[l].rows();
  }
}

// x rounded, filled up to one of few numbers of rows that are little more than there are.
MatView<const uint16_t> narrow(MatView<const float> x, Buffer<uint16_t>& buffer) {
  const int64_t block = x.rows < 512 ? 64 : 256;
  const MatView<uint16_t> y = grown(buffer, (x.rows + block - 1) / block * block, x.cols);
  linalg::to_bf16_padded(x, y);
  return y;
}

// XqᵀXq and, where it is wanted, XqᵀX of tokens added to what `gram` has.
void add_products(MatView<const float> x, MatView<const float> xq, linalg::ComputeType compute,
                  InputGrams::Narrowed& room, InputGrams::Gram& gram) {
  if (x.rows == 0) return;
  const bool has_cross = gram.cross.size() != 0;
  if (compute == linalg::ComputeType::kBf16) {
    const MatView<const uint16_t> narrow_xq = narrow(xq, room.xq);
    linalg::gram_bf16(narrow_xq, true, gram.hessian.view());
    if (has_cross)
      linalg::gemm_bf16(Trans::kYes, Trans::kNo, narrow_xq, narrow(x, room.x), true,
                        gram.cross.view());
    return;
  }
  linalg::gram(xq, gram.hessian.view(), 1.0f);
  if (has_cross) linalg::gemm(Trans::kYes, Trans::kNo, 1.0f, xq, x, 1.0f, gram.cross.view());
}

// How the linears of `stacked` are refitted. The tokens that were held back to choose it are in the
// products then.
quant::Refit refit_of(const Mat<float>& stacked, const GptqOptions& options, double damp,
                      int64_t stand_ins, InputGrams::Gram& gram) {
  if (gram.cross.size() == 0) return {};
  if (options.refit) return {.damp = damp, .share = *options.refit};
  const MatView<const float>
      x = std::as_const(gram.held).view().slice_rows(0, gram.num_held),
      xq = std::as_const(gram.held_quantized).view().slice_rows(0, gram.num_held);
  const quant::Refit chosen = quant::choose_refit(
      stacked.view(), std::as_const(gram.cross).view(), std::as_const(gram.hessian).view(),
      gram.num_tokens + stand_ins - gram.num_held, x, xq);
  InputGrams::Narrowed room;
  add_products(x, xq, options.compute, room, gram);
  gram.held = Mat<float>();
  gram.held_quantized = Mat<float>();
  return chosen;
}

}  // namespace

InputGrams::InputGrams(const hf::Config& config, const LayerScheme& scheme,
                       const model::OnlineTransforms& online, const GptqOptions& options)
    : config_(config), online_(online), options_(options) {
  const auto add = [&](std::vector<Gram>& grams, LinearGroup group, int bits) {
    if (std::ranges::any_of(
            grams, [&](const Gram& gram) { return gram.group == group && gram.act_bits == bits; }))
      return;
    // Both matrices are [in, in].
    const int64_t n = model::in_features(config, model::linears_of(group).front());
    grams.push_back(
        {group, bits, Mat<float>(n, n), options_.refits(n) ? Mat<float>(n, n) : Mat<float>()});
    grams.back().hessian.fill_zero();
    grams.back().cross.fill_zero();
    if (!options_.refit && options_.refits(n) && &grams == &grams_) {
      grams.back().held = Mat<float>(kMaxHeldBack, n);
      grams.back().held_quantized = Mat<float>(kMaxHeldBack, n);
    }
  };
  for (const LinearGroup group : groups_of(scheme))
    for (const Linear l : model::linears_of(group)) {
      if (!scheme[l]) continue;
      const int bits = bits_of(scheme[l]->act);
      add(grams_, group, bits);
      // All tokens of a layer are what its one MLP would read.
      if (hf::is_routed(config, group) && hf::reads_residual(group))
        add(of_all_, LinearGroup::kGateUp, bits);
    }
}

void InputGrams::observe(const model::LayerSaved<float>& saved, int64_t num_tokens) {
  for (std::vector<Gram>* grams : {&grams_, &of_all_})
    for (Gram& gram : *grams) observe(gram, saved.read_by(gram.group, num_tokens));
  if (std::ranges::any_of(grams_,
                          [&](const Gram& gram) { return hf::is_routed(config_, gram.group); })) {
    const MatView<const float> read =
        saved.mixture.act.view().slice_rows(0, saved.mixture.offsets.back());
    std::vector<double> squares(static_cast<size_t>(read.rows));
    parallel_for(read.rows, [&](int64_t i) {
      const float* row = read.row(i);
      squares[static_cast<size_t>(i)] = std::inner_product(row, row + read.cols, row, 0.0);
    });
    for (const double square : squares) down_square_ += square;
    num_down_ += read.rows * read.cols;
  }
}

void InputGrams::observe(Gram& gram, MatView<const float> input) {
  if (input.rows == 0) return;  // no token goes to the expert
  gram.num_tokens += input.rows;
  Mat<float> transformed;  // [tokens, in], as is `quantized`
  if (const model::KroneckerTransform* transform = online_.of(gram.group)) {
    transformed = Mat<float>(input.rows, input.cols);
    transform->apply(input, transformed.view());
  }
  const bool is_transformed = transformed.size() != 0;
  const MatView<const float> x = is_transformed ? std::as_const(transformed).view() : input;
  MatView<const float> xq = x;
  Mat<float> quantized;
  if (gram.act_bits < 16) {
    // In its place where nothing reads the exact inputs any more.
    MatView<float> target = transformed.view();
    if (!is_transformed || gram.cross.size() != 0) {
      quantized = Mat<float>(x.rows, x.cols);
      target = quantized.view();
    }
    quant::fake_quantize_tokens(x, {.bits = gram.act_bits}, target, online_.clip_of(gram.group));
    xq = target;
  }
  const int64_t held = std::min(x.rows / kHeldBackOf, gram.held.rows() - gram.num_held),
                seen = x.rows - held;
  for (int64_t i = seen; i < x.rows; ++i, ++gram.num_held) {
    std::copy_n(x.row(i), x.cols, gram.held.row(gram.num_held));
    std::copy_n(xq.row(i), x.cols, gram.held_quantized.row(gram.num_held));
  }
  add_products(x.slice_rows(0, seen), xq.slice_rows(0, seen), options_.compute, narrowed_, gram);
}

void InputGrams::add_average(Gram& gram) const {
  const auto missing_tokens = static_cast<double>(missing(gram));
  if (missing_tokens == 0) return;
  if (!hf::reads_residual(gram.group)) {
    if (num_down_ == 0) return;
    const auto added =
        static_cast<float>(missing_tokens * down_square_ / static_cast<double>(num_down_));
    for (Mat<float>* matrix : {&gram.hessian, &gram.cross})
      for (int64_t i = 0; i < matrix->rows(); ++i) (*matrix)(i, i) += added;
    return;
  }
  const auto all = std::ranges::find_if(
      of_all_, [&](const Gram& other) { return other.act_bits == gram.act_bits; });
  LAOS_ASSERT(all != of_all_.end());
  if (all->num_tokens == 0) return;
  const auto share = static_cast<float>(missing_tokens / static_cast<double>(all->num_tokens));
  const auto add = [&](const Mat<float>& from, Mat<float>& to) {
    for (int64_t i = 0; i < to.rows(); ++i)
      for (int64_t j = 0; j < to.cols(); ++j) to(i, j) += share * from(i, j);
  };
  add(all->hessian, gram.hessian);
  add(all->cross, gram.cross);
}

std::vector<InputGrams::Gram> InputGrams::take() && {
  for (Gram& gram : grams_)
    if (hf::is_routed(config_, gram.group)) add_average(gram);
  of_all_.clear();
  return std::move(grams_);
}

const InputGrams::Gram& InputGrams::of(LinearGroup group, const quant::ActSpec& act) const {
  const auto found = std::find_if(grams_.begin(), grams_.end(), [&](const Gram& gram) {
    return gram.group == group && gram.act_bits == bits_of(act);
  });
  LAOS_ASSERT(found != grams_.end());
  return *found;
}

model::PerLinear<quant::IntWeight> quantize_layer(const hf::Config& config,
                                                  const model::LayerWeights& weights,
                                                  const LayerScheme& scheme,
                                                  const GptqOptions& options, InputGrams grams,
                                                  model::PerLinear<quant::Refit>* refits) {
  model::PerLinear<quant::IntWeight> result;
  quant::GptqOptions gptq = {.act_order = options.act_order, .refine = options.refine};
  for (InputGrams::Gram& taken : std::move(grams).take()) {
    InputGrams::Gram gram = std::move(taken);
    const std::vector<Linear> readers = readers_of(gram, scheme);
    // Average tokens stand in for those that a routed expert is short of.
    const int64_t stand_ins =
        hf::is_routed(config, gram.group) ? InputGrams::missing(gram) : int64_t{0};
    gptq.damp = options.damp.value_or(
        InputGrams::damping(gram.hessian.rows(), gram.num_tokens + stand_ins));
    try {
      // Rows do not depend on each other, so that linears that read the same are one weight.
      Mat<float> stacked = model::stack(weights, readers);
      const quant::Refit refit = refit_of(stacked, options, gptq.damp, stand_ins, gram);
      if (refit.share > 0)
        stacked = quant::refit(std::as_const(stacked).view(), std::move(gram.cross),
                               std::as_const(gram.hessian).view(), refit.damp, refit.share);
      if (refits != nullptr)
        for (const Linear l : readers) (*refits)[l] = refit;
      gram.cross = Mat<float>();
      int64_t row = 0;
      for (auto first = readers.begin(); first != readers.end();) {
        const quant::LinearScheme& shared = *scheme[*first];
        const auto last =
            std::find_if(first, readers.end(), [&](Linear l) { return scheme[l] != shared; });
        const int64_t end = row + rows_of(weights, {first, last});
        const quant::IntWeight solved =
            quant::quantize_gptq(std::as_const(stacked).view().slice_rows(row, end),
                                 std::as_const(gram.hessian).view(), shared.weight, gptq);
        scatter(solved, weights, {first, last}, result);
        row = end;
        first = last;
      }
    } catch (const Error& error) {
      std::vector<Problem> problems = error.problems();
      for (Problem& problem : problems)
        problem.where = std::string(model::path_of(config, readers.front())) + ", " + problem.where;
      throw Error(error.code(), std::move(problems));
    }
  }
  return result;
}

// Linears of a group count as one weight, as those of one scheme are solved.
Cost cost_of(const hf::Config& config, const LayerScheme& scheme, const GptqOptions& options,
             int64_t tokens, int64_t piece_tokens, bool is_transformed) {
  double flops = 0, grams = 0, solving = 0, held = 0, piece = 0;
  bool has_routed = false;
  for (const LinearGroup group : groups_of(scheme)) {
    double in = 0, out = 0;
    for (const Linear l : model::linears_of(group)) {
      if (!scheme[l]) continue;
      in = static_cast<double>(model::in_features(config, l));
      out += static_cast<double>(model::out_features(config, l));
    }
    // A product of symmetric result is formed whole; a factor is a third of a cube, feedback half a
    // product; a round of refinement two passes over the codes and two products for the scales.
    has_routed = has_routed || hf::is_routed(config, group);
    const double gram =
        2 * hf::share_of_tokens(config, group) * static_cast<double>(tokens) * in * in;
    const bool refits = options.refits(static_cast<int64_t>(in));
    const double matrices = refits ? 2 : 1;  // the products of inputs that the group has
    const double solved = in * in * in / 3 + out * in * in;
    grams += gram * matrices;
    flops += solved;
    flops += 8 * static_cast<double>(options.refine) * out * in * in;
    const double refit = solved + 3 * out * in * in;
    if (refits) flops += refit;
    held += 4 * in * in * matrices;
    // A refit is solved in the memory of its cross products. Beside it: the linears' weights end to
    // end, as they are fed back into each other, and their codes.
    solving = std::max(solving, held + 4 * ((refits ? 0 : in * in) + 3 * out * in));
    if (refits && !options.refit) {
      // What a refit solves for is formed once; each damping is a factor, a solution and a product
      // with the rows held back, all beside the cross products.
      const auto rows = static_cast<double>(std::min(
          static_cast<int64_t>(hf::share_of_tokens(config, group) * static_cast<double>(tokens)) /
              kHeldBackOf,
          kMaxHeldBack));
      const auto tried = static_cast<double>(quant::kRefitDamps.size());
      flops += refit + (tried - 1) * (in * in * in / 3 + 2 * out * in * in) +
               (tried + 1) * 2 * rows * out * in;
      held += 4 * 2 * rows * in;
      solving = std::max(solving, held + 4 * (in * in + 3 * out * in + rows * (in + 2 * out)));
    }
    // Inputs transformed and quantized, one in the place of the other unless both are read, and
    // what is rounded of them.
    const double rounded = options.compute == linalg::ComputeType::kF32 ? 0 : 2 * matrices;
    piece = std::max(piece, (4.0 * (is_transformed && refits ? 2 : 1) + rounded) *
                                static_cast<double>(piece_tokens) * in);
  }
  if (has_routed) {  // the gram of all tokens, which goes before anything is solved
    const auto in = static_cast<double>(config.hidden_size);
    const double matrices = options.refits(config.hidden_size) ? 2 : 1;
    grams += 2 * static_cast<double>(tokens) * in * in * matrices;
    held += 4 * in * in * matrices;
  }
  return {.flops = flops + grams,
          .grams = grams,
          .observing = static_cast<int64_t>(held + piece),
          .solving = static_cast<int64_t>(solving)};
}

}  // namespace laos::gptq
