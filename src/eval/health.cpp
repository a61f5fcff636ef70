#include "eval/health.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "core/threads.h"
#include "hf/ascendv1.h"
#include "io/safetensors.h"
#include "linalg/gemm.h"
#include "linalg/polar.h"
#include "model/checkpoint.h"

namespace laos::eval {

using linalg::Trans;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Names of the directory's float tensors that hold NaN or infinity.
std::vector<std::string> tensors_not_finite(const std::filesystem::path& directory) {
  const io::TensorFiles files = io::TensorFiles::open_files(hf::top_level_safetensors(directory));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : files.tensors()) {
    if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16)
      continue;
    if (!model::is_finite(tensor)) names.push_back(name);
    files.drop_pages();
  }
  return names;
}

// The rotation R between two residual streams: x of the baseline is x R in the model.
class Basis {
 public:
  // `rotation` as of check_health.
  Basis(const TensorView& baseline, const TensorView& model, const Mat<float>* rotation) {
    const int64_t vocab_size = baseline.shape[0], hidden_size = baseline.shape[1];
    // Spread evenly; to find the rotation, enough to span the space many times over.
    const int64_t count =
        std::min(vocab_size, rotation != nullptr ? kRowsToCompare : 4 * hidden_size);
    if (is_same(baseline, model, count)) return;
    Mat<float> a(count, hidden_size), b(count, hidden_size);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = i * vocab_size / count;
      model::rows_to_f32(baseline, row, row + 1, a.row(i));
      model::rows_to_f32(model, row, row + 1, b.row(i));
    }
    if (!model::is_finite(std::as_const(b).view())) {
      error_ = kNaN;
      return;
    }
    if (rotation != nullptr) {
      LAOS_ASSERT(rotation->rows() == hidden_size && rotation->cols() == hidden_size);
      rotation_ = rotation->view();
    } else {
      Mat<float> correlation(hidden_size, hidden_size);
      linalg::gemm(Trans::kYes, Trans::kNo, 1.0f, std::as_const(a).view(), std::as_const(b).view(),
                   0.0f, correlation.view());
      // The ridge is small: embeddings reach far less into some directions than into others, and it
      // must not pull those to the identity.
      found_ = linalg::polar_factor(std::as_const(correlation).view(), 1e-7).factor;
      rotation_ = std::as_const(found_).view();
    }
    const Mat<float> rotated = apply(std::as_const(a).view());
    error_ = model::mean_relative_error(rotated.view(), std::as_const(b).view(),
                                        std::as_const(b).view());
  }

  double error() const noexcept { return error_; }
  // x R
  Mat<float> apply(MatView<const float> x) const {
    Mat<float> y(x.rows, x.cols);
    if (rotation_.rows == 0)
      for (int64_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, y.row(i));
    else
      linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, x, rotation_, 0.0f, y.view());
    return y;
  }

 private:
  static constexpr int64_t kRowsToCompare = 256;
  // Whether so many rows, spread evenly, are the same bytes.
  static bool is_same(const TensorView& a, const TensorView& b, int64_t count) {
    if (a.dtype != b.dtype || a.shape != b.shape) return false;
    const int64_t row_bytes = a.shape[1] * size_of(a.dtype);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = i * a.shape[0] / count * row_bytes;
      if (std::memcmp(a.data + begin, b.data + begin, static_cast<size_t>(row_bytes)) != 0)
        return false;
    }
    return true;
  }
  Mat<float> found_;
  MatView<const float> rotation_ = {};  // [hidden_size, hidden_size]; empty = identity
  double error_ = 0;
};

void require_same_architecture(const hf::Config& a, const hf::Config& b) {
  const auto differ = [&](const char* what, int64_t x, int64_t y) {
    if (x == y) return;
    throw Error(ErrorCode::kShape,
                {.what = std::string(what) + " " + std::to_string(x) + " and " + std::to_string(y),
                 .where = "model and baseline",
                 .fix = "give the float checkpoint that the model was quantized from"});
  };
  differ("num_hidden_layers", a.num_hidden_layers, b.num_hidden_layers);
  differ("hidden_size", a.hidden_size, b.hidden_size);
  differ("intermediate_size", a.intermediate_size, b.intermediate_size);
  differ("num_attention_heads", a.num_attention_heads, b.num_attention_heads);
  differ("vocab_size", a.vocab_size, b.vocab_size);
}

// Of a mixture what down reads is that of all its routed experts.
std::array<model::Outliers, 4> outliers_of_inputs(const model::LayerSaved<float>& saved,
                                                  int64_t num_tokens, bool is_mixture) {
  std::array<model::Outliers, 4> result;
  for (const model::LinearGroup group : model::kAllLinearGroups)
    result[static_cast<size_t>(group)] = model::outliers_of(
        is_mixture && group == model::LinearGroup::kDown
            ? saved.mixture.act.view().slice_rows(0, saved.mixture.offsets.back())
            : saved.input_of(group).view().slice_rows(0, num_tokens));
  return result;
}

// Of the tokens, each of which has k experts, one after the other.
double share_that_differs(const std::vector<int32_t>& a, const std::vector<int32_t>& b, int64_t k) {
  int64_t differing = 0;
  for (auto of_a = a.begin(), of_b = b.begin(); of_a != a.end(); of_a += k, of_b += k)
    differing += std::equal(of_a, of_a + k, of_b) ? 0 : 1;
  return static_cast<double>(differing * k) / static_cast<double>(a.size());
}

std::string percent(double ratio) {
  char text[32];
  std::snprintf(text, sizeof text, ratio < 0.1 ? "%.1f %%" : "%.0f %%", 100 * ratio);
  return text;
}

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// The median error of the layers with the labels of layer `i`, itself included; 0 when there are
// too few.
double usual_error(const std::vector<LayerHealth>& layers, size_t i) {
  std::vector<double> errors;
  for (const LayerHealth& layer : layers)
    if (layer.labels == layers[i].labels)
      errors.push_back(std::isnan(layer.error) ? std::numeric_limits<double>::infinity()
                                               : layer.error);
  if (std::ssize(errors) < kPeers) return 0;
  const auto middle = errors.begin() + std::ssize(errors) / 2;
  std::nth_element(errors.begin(), middle, errors.end());
  return *middle;
}

// The labels of a layer's linears; "" where the checkpoint has none. Experts that have those of the
// one before them are left out.
std::string labels_of(const EvalModel& model, int64_t layer_idx) {
  std::string labels, own, before;  // the latter two of an expert
  for (const model::Linear l : model::linears_in(model.config(), layer_idx)) {
    const std::string label = model.label(model::name_of(model.config(), layer_idx, l));
    const std::string text = (labels.empty() && own.empty() ? "" : " ") + label;
    if (hf::expert_of(l) < 0) {
      labels += text;
      continue;
    }
    own += text;
    if (hf::kind_of(l) != model::Linear::kDownProj) continue;
    if (own != before) labels += own;
    before = std::exchange(own, "");
  }
  return labels;
}

// The token with the highest logit for each row of what lm_head reads; the first of equals.
std::vector<int32_t> likeliest(const TensorView& lm_head, const Mat<float>& hidden) {
  constexpr int64_t kVocabBlock = 4096;
  const int64_t vocab_size = lm_head.shape[0];
  std::vector<int32_t> best(static_cast<size_t>(hidden.rows()), 0);
  std::vector<float> best_logit(best.size(), -std::numeric_limits<float>::infinity());
  Mat<float> block(std::min(vocab_size, kVocabBlock), lm_head.shape[1]);
  for (int64_t first = 0; first < vocab_size; first += kVocabBlock) {
    const int64_t end = std::min(vocab_size, first + kVocabBlock);
    model::rows_to_f32(lm_head, first, end, block.data());
    const MatView<const float> head = block.view().slice_rows(0, end - first);
    Mat<float> logits(hidden.rows(), head.rows);
    linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, hidden.view(), head, 0.0f, logits.view());
    for (int64_t i = 0; i < logits.rows(); ++i) {
      const float* top = std::max_element(logits.row(i), logits.row(i) + logits.cols());
      const auto row = static_cast<size_t>(i);
      if (*top <= best_logit[row]) continue;
      best_logit[row] = *top;
      best[row] = static_cast<int32_t>(first + (top - logits.row(i)));
    }
  }
  return best;
}

// Both models' layers, one after the other, on the hidden states of both, which they replace.
// Whether those of `model` stayed finite.
bool run_layers(const EvalModel& model, const EvalModel& baseline, const Basis& basis,
                model::HiddenStates& expected, model::HiddenStates& actual,
                std::vector<LayerHealth>& layers, const std::function<void(int64_t)>& progress) {
  const hf::Config& config = model.config();
  const model::Ragged& batch = expected.samples;
  const int64_t n = batch.num_tokens();
  bool finite = model::is_finite(std::as_const(actual.rows).view());
  const model::Rope<float> rope(config, model::longest_sample(batch));
  model::LayerSaved<float> saved(config, n, false);
  model::TokenRows next(n, config.hidden_size, {});
  Mat<float> alone(n, config.hidden_size);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerHealth layer;
    layer.labels = labels_of(model, i);
    const Mat<float> inputs = basis.apply(std::as_const(expected.rows).view());
    const auto forward = [&](EvalLayer& l, MatView<const float> x, MatView<float> y) {
      model::layer_forward<float>(config, l.norms(), l.linears(), rope, batch, x, saved, y);
    };
    {
      const std::unique_ptr<EvalLayer> exact = baseline.load_streamed_layer(i);
      forward(*exact, expected.rows.view(), next.view());
    }
    const bool is_mixture = model::is_mixture(config, i);
    layer.before = outliers_of_inputs(saved, n, is_mixture);
    const auto experts = [&] { return model::routes_by_token(config, saved.mixture).experts; };
    const std::vector<int32_t> routed = is_mixture ? experts() : std::vector<int32_t>();
    Mat<float> added(n, config.hidden_size);
    for (int64_t j = 0; j < added.size(); ++j)
      added.data()[j] = next.data()[j] - expected.rows.data()[j];
    std::swap(expected.rows, next);
    const Mat<float> outputs = basis.apply(std::as_const(expected.rows).view());

    const std::unique_ptr<EvalLayer> quantized = model.load_layer(i);
    forward(*quantized, inputs.view(), alone.view());
    layer.error = model::mean_relative_error(std::as_const(alone).view(), outputs.view(),
                                             std::as_const(added).view());
    if (finite) {
      forward(*quantized, actual.rows.view(), next.view());
      layer.after = outliers_of_inputs(saved, n, is_mixture);
      if (is_mixture)
        layer.rerouted = share_that_differs(routed, experts(), config.num_experts_per_tok);
      std::swap(actual.rows, next);
      finite = model::is_finite(std::as_const(actual.rows).view());
    }
    layer.drift = finite ? model::mean_relative_error(std::as_const(actual.rows).view(),
                                                      outputs.view(), outputs.view())
                         : kNaN;
    layers.push_back(layer);
    baseline.drop_pages();
    model.drop_pages();
    if (progress) progress(i + 2);
  }
  return finite;
}

}  // namespace

const char* name_of(Verdict verdict) noexcept {
  switch (verdict) {
    case Verdict::kGood:
      return "good";
    case Verdict::kDegraded:
      return "degraded";
    case Verdict::kBroken:
      break;
  }
  return "broken";
}

Judgement judge(const Health& health) {
  Judgement result;
  result.worst.resize(health.layers.size());
  std::iota(result.worst.begin(), result.worst.end(), 0);
  const auto rank = [&](int64_t i) {
    const double error = health.layers[static_cast<size_t>(i)].error;
    return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  };
  std::stable_sort(result.worst.begin(), result.worst.end(),
                   [&](int64_t a, int64_t b) { return rank(a) > rank(b); });

  const auto add = [&](Verdict verdict, std::string reason) {
    result.verdict = std::max(result.verdict, verdict);
    result.reasons.push_back(std::move(reason));
  };
  if (!health.not_finite.empty())
    add(Verdict::kBroken,
        "NaN or infinity in " + health.not_finite.front() +
            (health.not_finite.size() > 1
                 ? " and " + std::to_string(health.not_finite.size() - 1) + " more tensors"
                 : ""));
  if (!(health.embedding_error <= kBrokenEmbedding))
    add(Verdict::kBroken, "the embedding is not the baseline's in another basis (" +
                              percent(health.embedding_error) + " apart)");
  for (const int64_t i : result.worst) {
    const double error = rank(i), usual = usual_error(health.layers, static_cast<size_t>(i));
    const bool stands_out = usual > 0 && error > kStandsOutFrom && error > kStandsOut * usual;
    if (error <= kDegradedLayer && !stands_out) continue;
    const std::string name = hf::layer_name(hf::Config{}, i);
    if (std::isinf(error))
      add(Verdict::kBroken, "the output of " + name + " is not finite");
    else
      add(error > kBrokenLayer ? Verdict::kBroken : Verdict::kDegraded,
          "the output of " + name + " is off by " + percent(error) + " of what the layer adds" +
              (stands_out ? ", where layers of its labels are by " + percent(usual) : ""));
  }
  if (std::isnan(health.kl_mean))
    add(Verdict::kBroken, "logits are not finite");
  else if (health.kl_mean > kDegradedKl)
    add(health.kl_mean > kBrokenKl ? Verdict::kBroken : Verdict::kDegraded,
        "KL " + number("%.3g", health.kl_mean) + " is above " +
            number("%.3g", health.kl_mean > kBrokenKl ? kBrokenKl : kDegradedKl));
  if (health.top1_agreement < kDegradedTop1)
    add(Verdict::kDegraded, "top-1 agreement " + percent(health.top1_agreement) + " is below " +
                                percent(kDegradedTop1));
  return result;
}

Health check_health(const std::filesystem::path& directory, const EvalModel& model,
                    const EvalModel& baseline, const Windows& windows, const Mat<float>* rotation,
                    const std::function<void(int64_t)>& progress) {
  const hf::Config& config = model.config();
  require_same_architecture(config, baseline.config());
  Health health;
  health.not_finite = tensors_not_finite(directory);
  const Basis basis(baseline.embed_tokens(), model.embed_tokens(), rotation);
  baseline.drop_pages();
  model.drop_pages();
  health.embedding_error = basis.error();
  if (progress) progress(1);

  const std::vector<std::vector<int32_t>> sequences = ids_of(windows);
  model::HiddenStates expected = model::embed(baseline.embed_tokens(), sequences);
  model::HiddenStates actual = model::embed(model.embed_tokens(), sequences);
  health.num_tokens = expected.samples.num_tokens();
  bool finite = run_layers(model, baseline, basis, expected, actual, health.layers, progress);
  if (finite) {
    normalize_final(model, actual);
    finite = model::is_finite(std::as_const(actual.rows).view());
  }
  if (!finite || !health.not_finite.empty()) {
    health.kl_mean = health.kl_stderr = health.kl_max = health.top1_agreement = kNaN;
    health.perplexity = health.baseline_perplexity = kNaN;
    if (progress) progress(health_steps(config));
    return health;
  }
  normalize_final(baseline, expected);
  const Comparison comparison = compare(scored_hidden(model, actual, windows),
                                        scored_hidden(baseline, expected, windows), windows);
  health.kl_mean = comparison.divergence.kl.value;
  health.kl_stderr = comparison.divergence.kl.std_error;
  health.kl_max = comparison.divergence.kl_max;
  health.top1_agreement = comparison.divergence.top1_agreement.value;
  health.perplexity = comparison.model.perplexity.value;
  health.baseline_perplexity = comparison.baseline.perplexity.value;
  if (progress) progress(health_steps(config));
  return health;
}

std::vector<std::vector<int32_t>> greedy_continuations(
    const EvalModel& model, const std::vector<std::vector<int32_t>>& prompts, int64_t count,
    std::vector<std::vector<int32_t>> drafts, int64_t max_passes) {
  const auto wanted = static_cast<size_t>(count);
  drafts.resize(prompts.size());
  std::vector<std::vector<int32_t>> chosen(prompts.size());
  const auto is_done = [&] {
    return std::all_of(chosen.begin(), chosen.end(),
                       [&](const auto& tokens) { return tokens.size() >= wanted; });
  };
  for (int64_t pass = 0; !is_done() && (max_passes == 0 || pass < max_passes); ++pass) {
    // Of each unfinished prompt: what is chosen, then what is left of the draft.
    std::vector<std::vector<int32_t>> sequences;
    std::vector<size_t> owners;
    for (size_t p = 0; p < prompts.size(); ++p) {
      if (chosen[p].size() >= wanted) continue;
      drafts[p].resize(std::min(drafts[p].size(), wanted - 1));
      std::vector<int32_t>& sequence = sequences.emplace_back(prompts[p]);
      sequence.insert(sequence.end(), chosen[p].begin(), chosen[p].end());
      if (drafts[p].size() > chosen[p].size())
        sequence.insert(sequence.end(),
                        drafts[p].begin() + static_cast<std::ptrdiff_t>(chosen[p].size()),
                        drafts[p].end());
      owners.push_back(p);
    }
    const model::HiddenStates states = final_hidden(model, sequences);
    for (size_t s = 0; s < owners.size(); ++s) {
      const size_t p = owners[s];
      const auto known = static_cast<int64_t>(prompts[p].size() + chosen[p].size());
      const MatView<const float> all = states.of_sample(static_cast<int64_t>(s));
      Mat<float> rows(all.rows - known + 1, all.cols);
      for (int64_t i = 0; i < rows.rows(); ++i)
        std::copy_n(all.row(known - 1 + i), all.cols, rows.row(i));
      const std::vector<int32_t> said = likeliest(model.lm_head(), rows);
      auto next = said.begin();
      for (bool was_guessed = true; was_guessed && next != said.end(); ++next) {
        const size_t at = chosen[p].size();
        was_guessed = at < drafts[p].size() && drafts[p][at] == *next;
        chosen[p].push_back(*next);
      }
      drafts[p] = chosen[p];
      drafts[p].insert(drafts[p].end(), next, said.end());
    }
    model.drop_pages();
  }
  return chosen;
}

}  // namespace laos::eval
