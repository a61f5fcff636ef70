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
