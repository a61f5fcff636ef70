// Training allocates tensors before its first iterations and none in later ones; what a layer's
// activations take is what is said of them.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>

#include "autoround/train_layer.h"
#include "core/threads.h"
#include "support/random.h"

namespace {

// Of tensors, whose memory core/tensor.h takes by aligned_alloc.
std::atomic<int64_t> g_allocations = 0, g_tensor_bytes = 0;

}  // namespace

extern "C" void* aligned_alloc(size_t alignment, size_t size) noexcept {
  ++g_allocations;
  g_tensor_bytes += static_cast<int64_t>(size);
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, size) == 0 ? memory : nullptr;
}

namespace laos::autoround {
namespace {

using model::Linear;

hf::Config small_config(int64_t intermediate_size) {
  hf::Config config;
  config.hidden_size = 64;
  config.intermediate_size = intermediate_size;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  return config;
}

TEST(LayerSaved, TakesTheBytesThatItSays) {
  for (const int64_t intermediate_size : {16, 48, 160})
    for (const int64_t max_keys : {0, 50, 300})
      for (const bool with_backward : {false, true}) {
        const hf::Config config = small_config(intermediate_size);
        const int64_t before = g_tensor_bytes;
        const model::LayerSaved<float> saved(config, 50, with_backward, max_keys);
        const int64_t taken = g_tensor_bytes - before;
        const int64_t said =
            model::LayerSaved<float>::size_bytes(config, 50, with_backward, max_keys);
        EXPECT_GE(taken, said) << intermediate_size << " " << max_keys << " " << with_backward;
        EXPECT_LT(taken, said + 20 * 64);  // each of its matrices ends at a multiple of 64
      }
}

TEST(TrainLayer, AllocatesNoTensorInAnIterationOnceItHasMetTheLongestBatch) {
  const hf::Config config = small_config(160);
  model::LayerWeights weights;
  LayerScheme scheme;
  uint32_t seed = 10;
  for (const Linear l : model::kAllLinears) {
    const int64_t in = model::in_features(config, l);
    weights[l] = test::normal_matrix(model::out_features(config, l), in, ++seed,
                                     1 / std::sqrt(static_cast<float>(in)));
    scheme[static_cast<size_t>(l)] = quant::LinearScheme{{.bits = 4}, {.bits = 4}};
  }
  for (Mat<float>* gain : {&weights.input_layernorm, &weights.post_attention_layernorm,
                           &weights.q_norm, &weights.k_norm}) {
    const bool head = gain == &weights.q_norm || gain == &weights.k_norm;
    *gain = Mat<float>(1, head ? config.head_dim : config.hidden_size);
    std::fill_n(gain->data(), gain->size(), 1.0f);
  }
  // Eight samples: every batch is all of them, in another order.
  model::HiddenStates inputs, targets;
  for (int64_t s = 0; s < 8; ++s) inputs.samples.append(20 + 7 * s);
  inputs.rows = test::normal_matrix(inputs.samples.num_tokens(), config.hidden_size, 3);
  targets.samples = inputs.samples;
  targets.rows = test::normal_matrix(inputs.samples.num_tokens(), config.hidden_size, 4);
  const model::Rope<float> rope(config, model::longest_sample(inputs.samples));

  // On one thread: which of several meets the largest tile first is chance.
  const int threads = num_threads();
  set_num_threads(1);
  struct Case {
    linalg::ComputeType compute;
    bool act_aware, mlp_only, in_pieces;
  };
  for (const Case& c : {Case{linalg::ComputeType::kF32, false, false, false},
                        Case{linalg::ComputeType::kF32, true, false, false},
                        Case{linalg::ComputeType::kF32, false, true, false},
                        Case{linalg::ComputeType::kF32, false, false, true},
                        Case{linalg::ComputeType::kBf16, true, false, false}}) {
    LayerScheme trained = scheme;
    if (c.mlp_only)
      for (const Linear l : {Linear::kQProj, Linear::kKProj, Linear::kVProj, Linear::kOProj})
        trained[static_cast<size_t>(l)] = std::nullopt;
    TrainOptions options{.iters = 12, .act_aware = c.act_aware, .compute = c.compute};
    if (c.in_pieces) options.max_whole_tokens = 1;
    std::vector<int64_t> until;  // allocations until the end of each iteration
    train_layer(config, weights, {}, trained, options, rope, inputs, targets, 42, 0,
                [&](int64_t, double) { until.push_back(g_allocations); });
    ASSERT_EQ(until.size(), 12u);
    EXPECT_GT(until.front(), 0);
    for (size_t i = 3; i < until.size(); ++i)
      EXPECT_EQ(until[i], until[2])
          << "iteration " << i + 1 << ", act_aware " << c.act_aware << ", mlp_only " << c.mlp_only
          << ", pieces " << c.in_pieces << ", bf16 " << (c.compute == linalg::ComputeType::kBf16);
  }
  set_num_threads(threads);
}

}  // namespace
}  // namespace laos::autoround
