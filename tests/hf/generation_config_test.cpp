#include "hf/generation_config.h"

#include <gtest/gtest.h>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using Ids = std::vector<int32_t>;

TEST(EosTokenIds, AreOfTheGenerationConfigThenOfTheConfig) {
  const test::TempDirectory directory;
  EXPECT_EQ(read_eos_token_ids(directory.path()), Ids{});
  directory.write("config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(read_eos_token_ids(directory.path()), Ids{7});
  directory.write("generation_config.json", R"({"do_sample": true, "eos_token_id": null})");
  EXPECT_EQ(read_eos_token_ids(directory.path()), Ids{7});
  directory.write("generation_config.json", R"({"eos_token_id": [151645, 151643]})");
  EXPECT_EQ(read_eos_token_ids(directory.path()), (Ids{151645, 151643}));
}

TEST(EosTokenIds, ThatAreNoneAreRefused) {
  const test::TempDirectory directory;
  for (const char* text : {R"({"eos_token_id": "x"})", R"({"eos_token_id": [1, -2]})", "{"}) {
    directory.write("generation_config.json", text);
    EXPECT_EQ(test::error_of([&] { read_eos_token_ids(directory.path()); }).code(),
              ErrorCode::kFormat)
        << text;
  }
}

}  // namespace
}  // namespace laos::hf
