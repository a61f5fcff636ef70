#include "model/as_saved.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/temporary_directory.h"

namespace laos::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A file of tensors of two F32 each.
io::TensorFiles files_of(const test::TemporaryDirectory& directory,
                         const std::map<std::string, std::vector<float>>& tensors) {
  std::vector<io::TensorSpec> specs;
  for (const auto& [name, values] : tensors)
    specs.push_back({name, DType::kF32, {static_cast<int64_t>(values.size()), 1}});
  io::ShardedWriter writer(directory.path(), io::plan_shards(specs, "model", 0));
  for (const auto& [name, values] : tensors) writer.write(name, std::as_bytes(std::span(values)));
  writer.commit();
  return io::TensorFiles::open(directory.path(), "model");
}

std::vector<std::string> own_names(const std::vector<std::string>& names) {
  const test::TemporaryDirectory directory;
  std::map<std::string, std::vector<float>> tensors;
  for (const std::string& name : names) tensors[name] = {1, 2};
  io::TensorFiles files = files_of(directory, tensors);
  use_own_names(files, hf::Config{});
  std::vector<std::string> result;
  for (const auto& [name, tensor] : files.tensors()) {
    EXPECT_EQ(tensor.name, name);
    result.push_back(name);
  }
  return result;
}

TEST(OwnNames, AreThoseWithoutWhatIsWrappedAroundTheModel) {
  for (const std::string wrapper :
       {"", "base_model.model.", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."})
    EXPECT_THAT(own_names({wrapper + "model.embed_tokens.weight", wrapper + "lm_head.weight",
                           wrapper + "model.norm.weight"}),
                ElementsAre("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"))
        << wrapper;
}

hf::Config two_experts() {
  hf::Config config;
  config.hidden_size = 2;
  config.num_hidden_layers = 1;
  config.num_experts = 2;
  config.num_experts_per_tok = 1;
  config.moe_intermediate_size = 1;
  return config;
}

io::TensorFiles fused_experts(const test::TemporaryDirectory& directory, const Shape& gate_up) {
  const std::string path = "model.layers.0.mlp.experts.";
  const std::vector<float> first = {1, 2, 3, 4, 5, 6, 7, 8}, second = {9, 10, 11, 12};
  io::ShardedWriter writer(directory.path(),
                           io::plan_shards({{path + "gate_up_proj", DType::kF32, gate_up},
                                            {path + "down_proj", DType::kF32, {2, 2, 1}}},
                                           "model", 0));
  writer.write(path + "gate_up_proj", std::as_bytes(std::span(first)));
  writer.write(path + "down_proj", std::as_bytes(std::span(second)));
  writer.commit();
  return io::TensorFiles::open(directory.path(), "model");
}

TEST(FusedExperts, BecomeTensorsOfEachExpert) {
  const test::TemporaryDirectory directory;
  io::TensorFiles files = fused_experts(directory, {2, 2, 2});
  split_experts(files, two_experts());
  std::map<std::string, std::vector<float>> values;
  for (const auto& [name, tensor] : files.tensors()) {
    const Mat<float> matrix = to_f32(tensor);
    values[name.substr(std::string("model.layers.0.mlp.experts.").size())] =
        std::vector<float>(matrix.data(), matrix.data() + matrix.size());
  }
  EXPECT_EQ(values, (std::map<std::string, std::vector<float>>{{"0.gate_proj.weight", {1, 2}},
                                                               {"0.up_proj.weight", {3, 4}},
                                                               {"1.gate_proj.weight", {5, 6}},
                                                               {"1.up_proj.weight", {7, 8}},
                                                               {"0.down_proj.weight", {9, 10}},
                                                               {"1.down_proj.weight", {11, 12}}}));
}

TEST(FusedExperts, OfAnotherShapeAreRefused) {
  const test::TemporaryDirectory directory;
  io::TensorFiles files = fused_experts(directory, {2, 4, 1});
  try {
    split_experts(files, two_experts());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kShape);
    EXPECT_THAT(error.what(), HasSubstr("[2, 4, 1], config.json implies [2, 2, 2]"));
    EXPECT_THAT(error.what(), HasSubstr("mlp.experts.gate_up_proj"));
  }
}

TEST(OwnNames, BeginWithModelWhereItWasSavedWithoutItsHead) {
  EXPECT_THAT(own_names({"embed_tokens.weight", "layers.0.mlp.up_proj.weight", "lm_head.weight"}),
              ElementsAre("lm_head.weight", "model.embed_tokens.weight",
                          "model.layers.0.mlp.up_proj.weight"));
}

TEST(OwnNames, OfTwoTensorsAreRefusedWhenTheyAreOne) {
  try {
    own_names({"module.model.norm.weight", "model.norm.weight"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("two tensors are model.norm.weight"));
  }
}

TEST(OwnHead, IsOneOfOtherBytesOrShape) {
  const auto has = [](const std::vector<float>& head) {
    const test::TemporaryDirectory directory;
    std::map<std::string, std::vector<float>> tensors = {{"model.embed_tokens.weight", {1, 2}}};
    if (!head.empty()) tensors["lm_head.weight"] = head;
    return has_own_head(files_of(directory, tensors), hf::Config{});
  };
  EXPECT_FALSE(has({}));
  EXPECT_FALSE(has({1, 2}));
  EXPECT_TRUE(has({1, 3}));
  EXPECT_TRUE(has({1, 2, 3}));
}

}  // namespace
}  // namespace laos::model
