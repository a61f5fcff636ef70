#include "hf/ascendv1.h"
#include "model/cache_scales.h"
#include "pipeline/layer_steps.h"

namespace laos::pipeline {
namespace {

int64_t channels_of(const hf::Config& config) {
  return model::out_features(config, model::Linear::kKProj);
}

// spec.kv_cache: scales of the keys and values that the float layer gives, behind all that
// transforms it.
class CacheStep : public Step {
 public:
  using Step::Step;

  bool reads(const Plan&, int64_t) const override { return true; }

  int64_t peak_memory(const Plan& plan, int64_t, const LayerMemory& memory) const override {
    return memory.weights + memory.forward +
           2 * model::ChannelHistograms::size_bytes(channels_of(plan.checkpoint.config()));
  }

  void quantize(const Plan& plan, LayerWork& work) const override {
    const int64_t channels = channels_of(plan.checkpoint.config());
    model::ChannelHistograms keys(channels), values(channels);
    work.look([&](const model::Ragged& batch, const model::LayerSaved<float>& piece) {
      const int64_t begin = batch.past, end = begin + batch.num_tokens();
      keys.observe(piece.k_rotated.view().slice_rows(begin, end));
      values.observe(piece.v.view().slice_rows(begin, end));
    });
    // Engines run a float32 model as bfloat16.
    const DType dtype = plan.float_dtype == DType::kF32 ? DType::kBF16 : plan.float_dtype;
    work.result.cache = {.scales = {.keys = keys.scales(dtype), .values = values.scales(dtype)}};
    work.result.cache->key_error = keys.error(work.result.cache->scales.keys);
    work.result.cache->value_error = values.error(work.result.cache->scales.values);
  }
};

}  // namespace

std::unique_ptr<Step> plan_step(const recipe::KvCache& what, Planning planning) {
  const hf::Config& config = planning.plan.checkpoint.config();
  const auto refuse = [&](const std::string& reason) {
    planning.problems.add(
        {.what = reason, .where = what.location.text(), .fix = "leave kv_cache out"});
  };
  if (const std::string refusal = hf::cache_refusal(config); !refusal.empty()) refuse(refusal);
  return std::make_unique<CacheStep>(planning.plan.steps.size());
}

}  // namespace laos::pipeline
