#include "model/hidden_states.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "model/activation_stats.h"
#include "support/temporary_directory.h"

namespace laos::model {
namespace {

hf::Config small_config() {
  hf::Config config;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 10000;
  return config;
}

Mat<float> normal(int64_t rows, int64_t cols, uint32_t seed, float sigma = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0, sigma);
  Mat<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = distribution(generator);
  return matrix;
}

LayerWeights weights_of(const hf::Config& config) {
  LayerWeights weights;
  for (const Linear l : kAllLinears)
    weights[l] =
        normal(out_features(config, l), in_features(config, l), static_cast<uint32_t>(l) + 1, 0.2f);
  weights.input_layernorm = normal(1, config.hidden_size, 20);
  weights.post_attention_layernorm = normal(1, config.hidden_size, 21);
  weights.q_norm = normal(1, config.head_dim, 22);
  weights.k_norm = normal(1, config.head_dim, 23);
  return weights;
}

Ragged samples_of(const std::vector<int64_t>& lengths) {
  Ragged samples;
  for (const int64_t length : lengths) samples.append(length);
  return samples;
}

HiddenStates states_of(const Ragged& samples, const std::filesystem::path& directory = {}) {
  const Mat<float> rows = normal(samples.num_tokens(), 24, 5);
  HiddenStates states{samples, TokenRows(rows.rows(), rows.cols(), directory)};
  std::copy_n(rows.data(), rows.size(), states.rows.data());
  return states;
}

// outputs and, when not null, statistics of running `inputs` in pieces of `max_tokens`.
void run(const HiddenStates& inputs, int64_t max_tokens, HiddenStates& outputs,
         ActivationStats* stats = nullptr) {
  const hf::Config config = small_config();
  const LayerWeights weights = weights_of(config);
  FloatLinears<float> linears(views_of(weights));
  const Rope<float> rope(config, longest_sample(inputs.samples));
  LayerSaved<float> saved(config, largest_piece(inputs.samples, max_tokens), false,
                          longest_sample(inputs.samples));
  forward_all(config, norms_of(weights), linears, rope, inputs, max_tokens, saved, &outputs,
              [&](const Piece&, const Ragged& batch, LayerSaved<float>& piece) {
                if (stats != nullptr) stats->observe(batch, piece);
              });
}

TEST(PiecesOf, TakeWholeSamplesAndCutThoseThatAreTooLong) {
  const std::vector<Piece> pieces = pieces_of(samples_of({3, 4, 2, 17, 1, 8, 2}), 8);
  struct Expected {
    int64_t first, last, begin, past;
    std::vector<int64_t> offsets;
  };
  const std::vector<Expected> expected = {
      {0, 2, 0, 0, {0, 3, 7}}, {2, 3, 7, 0, {0, 2}},  {3, 4, 9, 0, {0, 8}},  {3, 4, 17, 8, {0, 8}},
      {3, 4, 25, 16, {0, 1}},  {4, 5, 26, 0, {0, 1}}, {5, 6, 27, 0, {0, 8}}, {6, 7, 35, 0, {0, 2}}};
  ASSERT_EQ(pieces.size(), expected.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_EQ(pieces[i].first, expected[i].first) << i;
    EXPECT_EQ(pieces[i].last, expected[i].last) << i;
    EXPECT_EQ(pieces[i].begin, expected[i].begin) << i;
    EXPECT_EQ(pieces[i].batch.past, expected[i].past) << i;
    EXPECT_EQ(pieces[i].batch.offsets, expected[i].offsets) << i;
  }
  EXPECT_EQ(largest_piece(samples_of({3, 4, 2, 17}), 8), 8);
}

TEST(ForwardAll, InPiecesIsTheLayerOverWholeSamples) {
  const HiddenStates inputs = states_of(samples_of({5, 1, 61, 3, 20}));
  HiddenStates whole{inputs.samples, Mat<float>(90, 24)}, cut{inputs.samples, Mat<float>(90, 24)};
  const OnlineTransforms none;
  ActivationStats whole_stats(small_config(), none), cut_stats(small_config(), none);
  run(inputs, 1000, whole, &whole_stats);
  run(inputs, 7, cut, &cut_stats);
  for (int64_t i = 0; i < whole.rows.size(); ++i)
    ASSERT_NEAR(cut.rows.data()[i], whole.rows.data()[i],
                1e-4 * std::max(1.0f, std::fabs(whole.rows.data()[i])))
        << "token " << i / 24;
  for (const LinearGroup group : kAllLinearGroups) {
    EXPECT_EQ(cut_stats[group].num_samples, 5);
    EXPECT_EQ(cut_stats[group].num_tokens, 90);
    EXPECT_NEAR(cut_stats[group].min_sum, whole_stats[group].min_sum, 1e-4);
    EXPECT_NEAR(cut_stats[group].max_sum, whole_stats[group].max_sum, 1e-4);
  }
}

TEST(ForwardAll, OnRowsInAFileGivesTheSameBytes) {
  const test::TemporaryDirectory directory;
  const Ragged samples = samples_of({5, 61, 20});
  const HiddenStates in_memory = states_of(samples);
  HiddenStates expected{samples, Mat<float>(86, 24)};
  run(in_memory, 30, expected);
  HiddenStates in_file = states_of(samples, directory.path());
  run(in_file, 30, in_file);  // over themselves
  EXPECT_EQ(std::memcmp(in_file.rows.data(), expected.rows.data(),
                        static_cast<size_t>(86 * 24) * sizeof(float)),
            0);
}

TEST(TokenRows, AreWalkedWholeInOrder) {
  const test::TemporaryDirectory directory;
  const TokenRows rows(2500, 3, directory.path());
  int64_t next = 0;
  rows.for_pieces([&](int64_t begin, int64_t end) {
    EXPECT_EQ(begin, next);
    for (int64_t i = begin; i < end; ++i) rows(i, 2) = static_cast<float>(i);
    next = end;
  });
  EXPECT_EQ(next, 2500);
  for (int64_t i = 0; i < 2500; ++i) ASSERT_EQ(rows(i, 2), static_cast<float>(i));
}

}  // namespace
}  // namespace laos::model
