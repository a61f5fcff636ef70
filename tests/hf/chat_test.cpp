#include "hf/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "small_tokenizer.h"

namespace laos::hf {
namespace {

using nlohmann::json;
using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

std::string text_of_file(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::string text((std::istreambuf_iterator<char>(stream)), {});
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::vector<ChatMessage> messages_of(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& m : list)
    messages.push_back(
        {.role = m["role"].get<std::string>(), .content = m["content"].get<std::string>()});
  return messages;
}

// A model directory with nothing but a chat template.
class Chat : public testing::Test {
 protected:
  ChatFormat with_template(const json& chat_template, const json& bos = "<s>",
                           const json& eos = "</s>") const {
    directory_.write(
        "tokenizer_config.json",
        json{{"bos_token", bos}, {"eos_token", eos}, {"chat_template", chat_template}}.dump());
    const std::optional<ChatFormat> format = ChatFormat::of_model(directory_.path());
    EXPECT_TRUE(format.has_value());
    return *format;
  }
  test::TempDirectory directory_;
};

// tests/golden/chat/make.py: what Jinja makes of the templates there.
TEST_F(Chat, WritesWhatTheTemplateOfEachFamilyWrites) {
  std::ifstream file(kRoot / "tests/golden/chat/goldens.jsonl");
  int count = 0;
  std::set<std::string> names;
  for (std::string line; std::getline(file, line); ++count) {
    const json golden = json::parse(line);
    const auto name = golden["template"].get<std::string>();
    const ChatFormat format =
        with_template(text_of_file(kRoot / "tests/golden/chat" / (name + ".jinja")),
                      golden["bos_token"], golden["eos_token"]);
    names.insert(format.name());
    const std::vector<ChatMessage> messages = messages_of(golden["messages"]);
    const auto write = [&] {
      return golden["asks"].get<bool>() ? format.prompt(messages, golden["thinking"].get<bool>())
                                        : format.text(messages);
    };
    if (golden["text"].is_null())
      EXPECT_EQ(error_of(write).code(), ErrorCode::kData) << name << golden["messages"];
    else
      EXPECT_EQ(write(), golden["text"].get<std::string>()) << name << golden["messages"];
  }
  EXPECT_EQ(count, 116);
  const std::vector<std::string> all = ChatFormat::names();
  EXPECT_EQ(names, std::set<std::string>(all.begin(), all.end()));
}

// tests/golden/qwen3-chat.jsonl: what the template of Qwen3's tokenizer makes of messages.
TEST_F(Chat, MatchesTheTemplateOfQwen3) {
  std::ifstream file(kRoot / "tests/golden/qwen3-chat.jsonl");
  const ChatFormat format = ChatFormat::named("qwen3", directory_.path());
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const json golden = json::parse(line);
    EXPECT_EQ(format.prompt(messages_of(golden["messages"]), golden["thinking"].get<bool>()),
              golden["text"].get<std::string>())
        << golden["messages"];
  }
  EXPECT_EQ(count, 16);
}

TEST_F(Chat, TemplatesStandInFilesAndInListsToo) {
  const std::string chatml = text_of_file(kRoot / "tests/golden/chat/chatml.jinja");
  EXPECT_EQ(with_template(json::array({{{"name", "rag"}, {"template", "[[["}},
                                       {{"name", "default"}, {"template", chatml}}}))
                .name(),
            "chatml");
  directory_.write("chat_template.jinja", text_of_file(kRoot / "tests/golden/chat/llama2.jinja"));
  EXPECT_EQ(with_template(chatml).name(), "llama2");
  EXPECT_FALSE(ChatFormat::of_model(directory_.path() / "none").has_value());
}

TEST_F(Chat, TemplatesOfNoFamilyAreRefusedNamingTheirTagsAndTheFamilies) {
  for (const char* other :
       {"{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}",
        "{{ '<|im_start|>' + role + '<|im_sep|>' + message['content'] + '<|im_end|>' }}",
        "{{ '<|im_start|>assistant\\n<think>\\n' }}{{ '<|im_end|>' }}", "{{ message }}", ""}) {
    const Error error = error_of([&] { with_template(other); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << other;
    EXPECT_THAT(error.what(), AllOf(HasSubstr("`chatml`"), HasSubstr("`llama3`"))) << other;
  }
  EXPECT_THAT(error_of([&] { with_template("{{ '<|user|>' + m + '<|end|>' }}"); }).what(),
              HasSubstr("`<|end|>`, `<|user|>`"));
  // Neither time nor stack is the template's to take.
  for (const char* piece : {"a", "'", "[INST] ", "<", "message['content'] + "}) {
    std::string text = "[INST][/INST]";
    while (text.size() < 200'000) text += piece;
    try {
      with_template(text);
    } catch (const Error&) {
    }
  }
}

TEST_F(Chat, FormatsAreChosenByName) {
  const std::vector<ChatMessage> messages = {{"user", "a"}};
  directory_.write("tokenizer_config.json",
                   R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  const auto prompt = [&](const std::string& name) {
    return ChatFormat::named(name, directory_.path()).prompt(messages);
  };
  EXPECT_EQ(prompt("chatml"), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(prompt("mistral"), "<s>[INST] a[/INST]");
  EXPECT_EQ(prompt("zephyr"), "<|user|>\na</s>\n<|assistant|>\n");
  const Error error = error_of([&] { prompt("alpaca"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("`alpaca`"), HasSubstr("`zephyr`")));
}

TEST_F(Chat, PromptsEndWithTheUsersTurn) {
  const ChatFormat format = ChatFormat::named("qwen3", directory_.path());
  const auto problem = [&](const std::vector<ChatMessage>& messages) {
    return std::string(error_of([&] { format.prompt(messages); }).what());
  };
  EXPECT_THAT(problem({}), HasSubstr("last message is not the user's"));
  EXPECT_THAT(problem({{"user", "a"}, {"assistant", "b"}}),
              HasSubstr("last message is not the user's"));
  EXPECT_THAT(problem({{"narrator", "4"}, {"user", "a"}}), HasSubstr("narrator"));
}

TEST_F(Chat, NeedsTheFormatsTokens) {
  const std::filesystem::path tiny = kRoot / "models/qwen3-tiny";
  EXPECT_EQ(ChatFormat::named("qwen3", tiny).end_token(Tokenizer::load(tiny)), 4095);
  const Tokenizer other = test::load(test::small_tokenizer());
  for (const std::string& name : ChatFormat::names()) {
    const Error error =
        error_of([&] { ChatFormat::named(name, directory_.path()).end_token(other); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << name;
  }
}

TEST_F(Chat, AssumedFormatsAreSaid) {
  const std::filesystem::path tiny = kRoot / "models/qwen3-tiny";  // has no template
  const Tokenizer tokenizer = Tokenizer::load(tiny);
  const ChosenChat chosen = choose_chat_format("", tiny, tokenizer, false);
  EXPECT_EQ(chosen.format.name(), "qwen3");
  EXPECT_THAT(chosen.warning, AllOf(HasSubstr("no chat template"), HasSubstr("qwen3")));
  EXPECT_EQ(choose_chat_format("chatml", tiny, tokenizer, false).warning, "");

  directory_.write("chat_template.jinja", "{{ '<|turn|>' }}");
  EXPECT_EQ(error_of([&] { choose_chat_format("", directory_.path(), tokenizer, false); }).code(),
            ErrorCode::kUnsupported);
  EXPECT_THAT(choose_chat_format("", directory_.path(), tokenizer, true).warning,
              AllOf(HasSubstr("`<|turn|>`"), HasSubstr("qwen3")));
  EXPECT_THAT(error_of([&] {
                choose_chat_format("", directory_.path(), test::load(test::small_tokenizer()),
                                   true);
              }).what(),
              HasSubstr("no tokens of this model's tokenizer"));
}

}  // namespace
}  // namespace laos::hf
