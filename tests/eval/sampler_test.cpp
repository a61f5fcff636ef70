#include "eval/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"

namespace laos::eval {
namespace {

const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 2.0f, 1.0f};

std::vector<int64_t> counts(const Sampling& options, int64_t draws,
                            const std::vector<float>& logits = kLogits) {
  Sampler sampler(options, 0);
  std::vector<int64_t> result(logits.size());
  for (int64_t i = 0; i < draws; ++i) ++result[static_cast<size_t>(sampler.next(logits))];
  return result;
}

TEST(Sampler, TakesTheLikeliestWithoutTemperatureAndTheFirstOfEquals) {
  EXPECT_EQ(likeliest(kLogits), 1);
  EXPECT_EQ(counts({}, 10), (std::vector<int64_t>{0, 10, 0, 0, 0}));
}

TEST(Sampler, DrawsWithTheProbabilitiesOfTheTemperature) {
  constexpr int64_t kDraws = 40'000;
  for (const double temperature : {0.5, 1.0, 3.0}) {
    const std::vector<int64_t> drawn = counts({.temperature = temperature, .seed = 3}, kDraws);
    double sum = 0;
    for (const float logit : kLogits) sum += std::exp(logit / temperature);
    for (size_t i = 0; i < kLogits.size(); ++i) {
      const double p = std::exp(kLogits[i] / temperature) / sum;
      // Five standard deviations of a binomial.
      EXPECT_NEAR(static_cast<double>(drawn[i]), kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)))
          << "temperature " << temperature << " token " << i;
    }
  }
}

TEST(Sampler, TopKKeepsTheLikeliestAndOfEqualsTheLowerId) {
  const std::vector<int64_t> one = counts({.temperature = 5, .top_k = 1}, 100);
  EXPECT_EQ(one, (std::vector<int64_t>{0, 100, 0, 0, 0}));
  const std::vector<int64_t> three = counts({.temperature = 5, .top_k = 3}, 1000);
  EXPECT_EQ(three[0] + three[2], 0);
  EXPECT_GT(three[4], 0);
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  // Probabilities at temperature 1: 0.089, 0.398, 0.020, 0.398, 0.146 (but for rounding).
  const auto drawn_with = [](double top_p) {
    const std::vector<int64_t> drawn = counts({.temperature = 1, .top_p = top_p}, 2000);
    std::set<int> tokens;
    for (size_t i = 0; i < drawn.size(); ++i)
      if (drawn[i] > 0) tokens.insert(static_cast<int>(i));
    return tokens;
  };
  EXPECT_EQ(drawn_with(0.3), (std::set<int>{1}));
  EXPECT_EQ(drawn_with(0.6), (std::set<int>{1, 3}));
  EXPECT_EQ(drawn_with(0.85), (std::set<int>{1, 3, 4}));
  EXPECT_EQ(drawn_with(0.96), (std::set<int>{0, 1, 3, 4}));
}

TEST(Sampler, RepeatsWithTheSeedAndDiffersByStream) {
  const Sampling options = {.temperature = 2, .seed = 11};
  const auto text = [&](const Sampling& with, uint32_t stream) {
    Sampler sampler(with, stream);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 64; ++i) tokens.push_back(sampler.next(kLogits));
    return tokens;
  };
  EXPECT_EQ(text(options, 0), text(options, 0));
  EXPECT_NE(text(options, 0), text(options, 1));
  EXPECT_NE(text(options, 0), text({.temperature = 2, .seed = 12}, 0));
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
  const std::vector<float> logits = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(Sampler({}, 0).next(logits), Error);
}

}  // namespace
}  // namespace laos::eval
