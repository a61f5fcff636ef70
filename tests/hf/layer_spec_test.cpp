#include "hf/layer_spec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "hf/family.h"
#include "hf/model_tensors.h"

namespace laos::hf {
namespace {

// Of six layers every second one has experts, but for the last, which is named.
Config mixture() {
  Config config;
  config.hidden_size = 8;
  config.intermediate_size = 24;
  config.num_hidden_layers = 6;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = 4;
  config.vocab_size = 10;
  config.num_experts = 5;
  config.num_experts_per_tok = 2;
  config.moe_intermediate_size = 3;
  config.shared_expert_intermediate_size = 7;
  config.decoder_sparse_step = 2;
  config.mlp_only_layers = {5};
  return config;
}

TEST(LayerSpec, SaysWhichLayersHaveExperts) {
  const Config config = mixture();
  std::set<int64_t> mixtures;
  for (int64_t i = 0; i < 6; ++i)
    if (is_mixture(config, i)) mixtures.insert(i);
  EXPECT_EQ(mixtures, (std::set<int64_t>{1, 3}));
  EXPECT_EQ(dense_intermediate_size(config), 24);
  Config all = config;
  all.decoder_sparse_step = 1;
  all.mlp_only_layers.clear();
  EXPECT_EQ(dense_intermediate_size(all), 0);
}

TEST(LayerSpec, NamesEachLinearOfALayerOnceAndInOrder) {
  const Config config = mixture();
  int64_t index = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::vector<Linear> linears = linears_in(config, i);
    EXPECT_EQ(linears.size(), is_mixture(config, i) ? 4u + 3 * 6 : 7u);
    for (const Linear linear : linears) {
      EXPECT_EQ(index_of(config, i, linear), index++);
      const auto members = linears_of(group_of(linear));
      EXPECT_NE(std::find(members.begin(), members.end(), linear), members.end());
    }
  }
}

TEST(LayerSpec, GivesExpertsTheirPathsAndShapes) {
  const Config config = mixture();
  const Linear down = of_expert(3, Linear::kDownProj), shared = of_expert(5, Linear::kUpProj);
  EXPECT_EQ(name_of(config, 1, down), "model.layers.1.mlp.experts.3.down_proj");
  EXPECT_EQ(path_of(config, shared), "mlp.shared_expert.up_proj");
  EXPECT_EQ(out_features(config, down), 8);
  EXPECT_EQ(in_features(config, down), 3);
  EXPECT_EQ(out_features(config, shared), 7);
  EXPECT_EQ(in_features(config, shared), 8);
  EXPECT_EQ(kind_of(down), Linear::kDownProj);
  EXPECT_EQ(expert_of(down), 3);
  EXPECT_EQ(expert_of(Linear::kDownProj), -1);
  EXPECT_EQ(group_of(down), of_expert(3, LinearGroup::kDown));
  EXPECT_EQ(kind_of(group_of(down)), LinearGroup::kDown);
  EXPECT_FALSE(reads_residual(group_of(down)));
  EXPECT_TRUE(reads_residual(group_of(shared)));
  EXPECT_FALSE(is_attention(group_of(shared)));
}

TEST(LayerSpec, HasRoutersInMixturesAlone) {
  const Config config = mixture();
  std::set<std::string> routers;
  for (const WeightModule& module : weight_modules(config))
    if (module.kind == WeightModule::Kind::kRouter)
      routers.insert(module.name + " " + to_string(module.shape));
  EXPECT_EQ(routers,
            (std::set<std::string>{
                "model.layers.1.mlp.gate [5, 8]", "model.layers.1.mlp.shared_expert_gate [1, 8]",
                "model.layers.3.mlp.gate [5, 8]", "model.layers.3.mlp.shared_expert_gate [1, 8]"}));
}

TEST(PerLinear, HoldsExpertsAsFarAsTheyWereGivenValues) {
  PerLinear<int> values;
  values.fill(7);
  int& named = values[Linear::kVProj];
  values[of_expert(4, Linear::kUpProj)] = 9;
  named = 8;
  EXPECT_EQ(values[Linear::kVProj], 8);
  EXPECT_EQ(values[of_expert(4, Linear::kUpProj)], 9);
  EXPECT_EQ(values[of_expert(4, Linear::kGateProj)], 0);
  const PerLinear<int>& same = values;
  EXPECT_EQ(same[of_expert(40, Linear::kUpProj)], 0);
}

}  // namespace
}  // namespace laos::hf
