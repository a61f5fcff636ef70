#include "tune/fit_scales.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "model/checkpoint.h"
#include "scheme/schemes.h"
#include "tune/student.h"

namespace laos::tune {

using model::Linear;

namespace {

using Samples = std::vector<std::vector<int32_t>>;

// The fit is judged so often beside its begin and end.
constexpr int64_t kJudged = 4;
// Of Adam.
constexpr double kFirstMoment = 0.9, kSecondMoment = 0.99, kEpsilon = 1e-8;

// Values of all rows one behind the other, and back.
std::vector<float> flat(const std::vector<RowValues>& layers) {
  std::vector<float> values;
  for (const RowValues& layer : layers)
    for (const std::vector<float>& rows : layer)
      values.insert(values.end(), rows.begin(), rows.end());
  return values;
}
void spread(const std::vector<float>& values, std::vector<RowValues>& layers) {
  auto value = values.begin();
  for (RowValues& layer : layers)
    for (std::vector<float>& rows : layer) {
      std::copy_n(value, rows.size(), rows.begin());
      value += std::ssize(rows);
    }
  LAOS_ASSERT(value == values.end());
}

// The next step of Adam.
void step_of_adam(double lr, const std::vector<float>& gradient, FitState& state) {
  const auto steps = static_cast<double>(++state.step);
  const double first_share = 1 - std::pow(kFirstMoment, steps),
               second_share = 1 - std::pow(kSecondMoment, steps);
  LAOS_ASSERT(gradient.size() == state.values.size());
  for (size_t i = 0; i < gradient.size(); ++i) {
    const double g = gradient[i];
    float &first = state.first[i], &second = state.second[i];
    first += static_cast<float>((1 - kFirstMoment) * (g - first));
    second += static_cast<float>((1 - kSecondMoment) * (g * g - second));
    state.values[i] -= static_cast<float>(lr * (first / first_share) /
                                          (std::sqrt(second / second_share) + kEpsilon));
  }
}

// The samples of each step in turn.
class Draws {
 public:
  Draws(const std::vector<int64_t>& samples, const FitOptions& options)
      : samples_(samples),
        size_(std::min(options.batch, std::ssize(samples))),
        generator_(options.seed) {}
  std::vector<int64_t> next() {
    std::vector<int64_t> batch;
    while (std::ssize(batch) < size_) {
      if (order_.empty()) order_ = random_permutation(generator_, std::ssize(samples_));
      batch.push_back(samples_[static_cast<size_t>(order_.back())]);
      order_.pop_back();
    }
    return batch;
  }

 private:
  const std::vector<int64_t>& samples_;
  const int64_t size_;
  std::mt19937 generator_;
  std::vector<int64_t> order_;
};

void require_same_shape(const hf::Config& student, const hf::Config& teacher) {
  Problems problems;
  const auto compare = [&](const char* field, int64_t a, int64_t b) {
    if (a != b)
      problems.add(
          {.what = std::string(field) + " " + std::to_string(a) + " and " + std::to_string(b),
           .where = "the quantized model and the float one",
           .fix = "name the float checkpoint that was quantized"});
  };
  compare("num_hidden_layers", student.num_hidden_layers, teacher.num_hidden_layers);
  compare("hidden_size", student.hidden_size, teacher.hidden_size);
  compare("vocab_size", student.vocab_size, teacher.vocab_size);
  problems.throw_if_any(ErrorCode::kShape);
}

void require_learnable(const hf::QuantizedCheckpoint& checkpoint) {
  const hf::Config& config = checkpoint.config();
  if (config.num_experts > 0)
    throw Error(ErrorCode::kUnsupported, {.what = "scales of experts are not learned",
                                          .where = "the quantized model",
                                          .fix = "use the checkpoint as it is"});
  Problems problems;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const Linear l : model::linears_in(config, i)) {
      const std::string name = model::name_of(config, i, l);
      const scheme::Scheme* scheme = scheme::find(checkpoint.label(name));
      if (scheme == nullptr || scheme->activations == scheme::Activations::kEither)
        problems.add({.what = "label " + checkpoint.label(name) + " is not computed here",
                      .where = name,
                      .fix = "use a checkpoint that `laos eval` takes"});
    }
  problems.throw_if_any(ErrorCode::kUnsupported);
  if (num_factors(checkpoint) > 0) return;
  throw Error(ErrorCode::kUnsupported,
              {.what = "no linear has scales to learn: those of weights alone, or beside dynamic "
                       "activations",
               .where = "the quantized model",
               .fix = "use the checkpoint as it is"});
}

// Indices of samples, held back or not.
std::vector<int64_t> indices(const Samples& samples, bool held_back) {
  const int64_t every = std::min(kHeldBack, std::ssize(samples));
  std::vector<int64_t> chosen;
  for (int64_t s = 0; s < std::ssize(samples); ++s)
    if ((s % every == every - 1) == held_back) chosen.push_back(s);
  return chosen;
}

int64_t tokens_of(const Samples& samples, const std::vector<int64_t>& chosen) {
  int64_t tokens = 0;
  for (const int64_t s : chosen) tokens += std::ssize(samples[static_cast<size_t>(s)]);
  return tokens;
}

}  // namespace

void require_tunable(const hf::QuantizedCheckpoint& checkpoint, const hf::Config& teacher) {
  require_learnable(checkpoint);
  require_same_shape(checkpoint.config(), teacher);
}

int64_t num_factors(const hf::QuantizedCheckpoint& checkpoint) {
  const hf::Config& config = checkpoint.config();
  int64_t rows = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const Linear l : model::linears_in(config, i))
      if (has_factors(checkpoint.label(model::name_of(config, i, l))))
        rows += model::out_features(config, l);
  return rows;
}

FitResult fit_scales(const hf::QuantizedCheckpoint& checkpoint, const eval::EvalModel& teacher,
                     const Samples& samples, const FitOptions& options, FitObserver& observer,
                     const FitState* from) {
  require_tunable(checkpoint, teacher.config());
  if (samples.size() < 2)
    throw Error(ErrorCode::kData,
                {.what = "one sample is held back, so that two are needed to learn from",
                 .where = "the dataset",
                 .fix = "give it more, or shorter ones (--seqlen)"});
  const std::vector<int64_t> held_back = indices(samples, true), fitted = indices(samples, false);
  Student student(checkpoint, teacher, samples, options.compute);
  const auto finite = [](double kl) {
    if (!std::isfinite(kl))
      throw Error(ErrorCode::kNumeric, {.what = "the divergence from the float model is not finite",
                                        .where = "the quantized model",
                                        .fix = "check both checkpoints with `laos inspect`"});
    return kl;
  };
  const auto judge = [&] {
    double sum = 0;
    for (const int64_t s : held_back)
      sum += student.run({s}, nullptr) *
             static_cast<double>(std::ssize(samples[static_cast<size_t>(s)]));
    return finite(sum / static_cast<double>(tokens_of(samples, held_back)));
  };

  FitState state;
  Draws draws(fitted, options);
  bool goes_on = true;
  if (from != nullptr) {
    state = *from;
    for (int64_t step = 0; step < state.step; ++step) (void)draws.next();
  } else {
    state.values = state.best = state.first = state.second = flat(student.log_factors);
    state.kl_before = state.kl = judge();
    goes_on = observer.step({0, state.kl, true});
  }
  std::vector<RowValues> gradients(student.log_factors.size());
  while (goes_on && state.step < options.steps) {
    spread(state.values, student.log_factors);
    const double kl = finite(student.run(draws.next(), &gradients));
    const double share = static_cast<double>(state.step) / static_cast<double>(options.steps);
    step_of_adam(options.lr * 0.5 * (1 + std::cos(M_PI * share)), flat(gradients), state);
    goes_on = observer.step({state.step, kl, false});
    if (state.step == options.steps ||
        state.step % std::max<int64_t>(1, options.steps / kJudged) == 0) {
      spread(state.values, student.log_factors);
      const double judged = judge();
      goes_on = observer.step({state.step, judged, true}) && goes_on;
      if (judged < state.kl) {
        state.kl = judged;
        state.best_step = state.step;
        state.best = state.values;
      }
    }
    if (state.step % kKeptSteps == 0) observer.keep(state);
  }
  FitResult result{.log_factors = student.log_factors,
                   .best_step = state.best_step,
                   .kl_before = state.kl_before,
                   .kl = state.kl};
  spread(state.best, result.log_factors);
  return result;
}

FitFlops fit_flops(const hf::Config& config, const Samples& samples, const FitOptions& options) {
  double weights = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const Linear l : model::linears_in(config, i))
      weights += static_cast<double>(model::num_weights(config, l));
  const double head =
      static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  std::vector<int64_t> all(samples.size());
  for (size_t s = 0; s < all.size(); ++s) all[s] = static_cast<int64_t>(s);
  const auto of_all = static_cast<double>(tokens_of(samples, all)),
             held = static_cast<double>(tokens_of(samples, indices(samples, true)));
  const double mean = of_all / static_cast<double>(samples.size());
  const double learned = static_cast<double>(options.steps * options.batch) * mean,
               judged = static_cast<double>(kJudged + 1) * held;
  // A step passes a token through the layers twice, once back, and through the heads three times.
  return {.teacher = 2 * weights * of_all,
          .fit = 2 * (weights * (judged + 3 * learned) + head * (2 * judged + 3 * learned))};
}

int64_t fit_bytes(const hf::Config& config, const Samples& samples, const FitOptions& options) {
  std::vector<int64_t> lengths;
  int64_t all = 0;
  for (const std::vector<int32_t>& sample : samples) {
    lengths.push_back(std::ssize(sample));
    all += lengths.back();
  }
  std::sort(lengths.rbegin(), lengths.rend());
  int64_t n = 0;  // of the largest batch
  for (int64_t s = 0; s < std::min<int64_t>(options.batch, std::ssize(lengths)); ++s)
    n += lengths[static_cast<size_t>(s)];
  int64_t rows = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const Linear l : model::linears_in(config, i)) rows += model::out_features(config, l);
  // Factors, the best ones, gradients and two moments, some of them twice.
  return Student::size_bytes(config, all, n, options.compute) + 8 * 4 * rows;
}

}  // namespace laos::tune
