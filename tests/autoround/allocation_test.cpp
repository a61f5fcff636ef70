// Training allocates tensors before its first iterations and none in later ones; what a layer's
// activations take is what is said of them.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>

#include "autoround/cost.h"
#include "autoround/problem.h"
#include "core/threads.h"
#include "support/temporary_directory.h"

namespace {

// Of tensors, whose memory core/tensor.cpp takes by aligned_alloc.
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

TEST(LayerSaved, TakesTheBytesThatItSays) {
  hf::Config config = Problem(1).config;
  for (const int64_t intermediate_size : {16, 48, 160})
    for (const int64_t max_keys : {0, 50, 300})
      for (const bool with_backward : {false, true}) {
        config.intermediate_size = intermediate_size;
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
  // Eight samples: every batch is all of them, in another order.
  Problem problem({20, 27, 34, 41, 48, 55, 62, 69});
  const LayerScheme scheme = problem.scheme;

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
    problem.scheme = scheme;
    if (c.mlp_only)
      for (const Linear l : {Linear::kQProj, Linear::kKProj, Linear::kVProj, Linear::kOProj})
        problem.scheme[l] = std::nullopt;
    TrainOptions options{.iters = 12, .act_aware = c.act_aware, .compute = c.compute};
    if (c.in_pieces) options.max_whole_tokens = 1;
    std::vector<int64_t> until;  // allocations until the end of each iteration
    problem.train(options, 42, {}, [&](int64_t, double) { until.push_back(g_allocations); });
    ASSERT_EQ(until.size(), 12u);
    EXPECT_GT(until.front(), 0);
    for (size_t i = 3; i < until.size(); ++i)
      EXPECT_EQ(until[i], until[2])
          << "iteration " << i + 1 << ", act_aware " << c.act_aware << ", mlp_only " << c.mlp_only
          << ", pieces " << c.in_pieces << ", bf16 " << (c.compute == linalg::ComputeType::kBf16);
  }
  set_num_threads(threads);
}

// The weights that are trained are in files meanwhile, as in a run. Counted is all that is
// allocated, so that buffers which grow count more than once: a fifth more is allowed.
TEST(TrainLayer, TakesTheBytesThatItSays) {
  Problem problem({100, 120, 140, 160, 180, 200, 220, 240});
  const LayerScheme scheme = problem.scheme;
  const test::TemporaryDirectory directory;
  const int threads = num_threads();
  set_num_threads(1);
  for (const linalg::ComputeType compute : {linalg::ComputeType::kF32, linalg::ComputeType::kBf16})
    for (const bool act_aware : {false, true})
      for (const bool mlp_only : {false, true})
        for (const bool in_pieces : {false, true}) {
          problem.scheme = scheme;
          int64_t untrained = 0;  // weights that are there already
          for (const Linear l : {Linear::kQProj, Linear::kKProj, Linear::kVProj, Linear::kOProj}) {
            if (!mlp_only) break;
            problem.scheme[l] = std::nullopt;
            untrained += problem.weights[l].size();
          }
          TrainOptions options{.iters = 3, .act_aware = act_aware, .compute = compute};
          if (in_pieces) options.max_whole_tokens = 1;
          int64_t taken = 0;
          // Twice: the scratch of threads is there from the first time on.
          for (int run = 0; run < 2; ++run) {
            const int64_t before = g_tensor_bytes;
            problem.train(options, 42, directory.path(),
                          [&](int64_t, double) { taken = g_tensor_bytes - before; });
          }
          const int64_t said = train_bytes(problem.config, problem.scheme, options,
                                           problem.inputs.samples, /*rotates_inputs=*/false) -
                               4 * untrained;
          const testing::Message what = testing::Message()
                                        << "act_aware " << act_aware << ", mlp_only " << mlp_only
                                        << ", pieces " << in_pieces << ", bf16 "
                                        << (compute == linalg::ComputeType::kBf16);
          EXPECT_GE(taken, said) << what;
          EXPECT_LT(taken, said + said / 5) << what;
        }
  set_num_threads(threads);
}

}  // namespace
}  // namespace laos::autoround
