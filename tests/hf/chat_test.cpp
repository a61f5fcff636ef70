#include "hf/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using nlohmann::json;
using test::error_of;
using testing::HasSubstr;

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

// tests/golden/qwen3-chat.jsonl: what the template of Qwen3's tokenizer makes of messages.
TEST(Chat, MatchesTheTemplateOfQwen3) {
  std::ifstream file(kRoot / "tests/golden/qwen3-chat.jsonl");
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const json golden = json::parse(line);
    std::vector<ChatMessage> messages;
    for (const json& m : golden["messages"])
      messages.push_back(
          {.role = m["role"].get<std::string>(), .content = m["content"].get<std::string>()});
    EXPECT_EQ(chat_prompt(messages, golden["thinking"].get<bool>()),
              golden["text"].get<std::string>())
        << golden["messages"];
  }
  EXPECT_EQ(count, 16);
}

TEST(Chat, RefusesWhatIsNotPlainTurnsEndingWithTheUsers) {
  const auto problem = [](const std::vector<ChatMessage>& messages) {
    return std::string(error_of([&] { chat_prompt(messages, true); }).what());
  };
  EXPECT_THAT(problem({}), HasSubstr("last message is not the user's"));
  EXPECT_THAT(problem({{"user", "a"}, {"assistant", "b"}}),
              HasSubstr("last message is not the user's"));
  EXPECT_THAT(problem({{"tool", "4"}, {"user", "a"}}), HasSubstr("role `tool`"));
}

TEST(Chat, NeedsTheFormatsTokens) {
  EXPECT_EQ(chat_end_token(Tokenizer::load(kRoot / "models/qwen3-tiny")), 4095);
  const Error error = error_of([] { chat_end_token(test::load(test::small_tokenizer())); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), HasSubstr("<|im_start|>"));
}

}  // namespace
}  // namespace laos::hf
