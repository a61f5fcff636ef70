#include "hf/chat.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace laos::hf {
namespace {

constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>";

std::string_view without_leading_newlines(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}
std::string_view without_newlines(std::string_view text) {
  text = without_leading_newlines(text);
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

bool is_tool_response(const ChatMessage& message) {
  return message.content.starts_with("<tool_response>") &&
         message.content.ends_with("</tool_response>");
}

// An assistant's turn; its thought only where it is kept, and then an empty one where it has to be.
std::string assistant_turn(std::string_view content, bool keep_thought, bool needs_thought) {
  std::string_view thought;
  if (content.find(kThinkEnd) != std::string_view::npos) {
    thought = content.substr(0, content.find(kThinkEnd));
    if (const size_t begin = thought.rfind(kThink); begin != std::string_view::npos)
      thought.remove_prefix(begin + kThink.size());
    thought = without_newlines(thought);
    content = without_leading_newlines(content.substr(content.rfind(kThinkEnd) + kThinkEnd.size()));
  }
  if (!needs_thought && (!keep_thought || thought.empty())) return std::string(content);
  return "<think>\n" + std::string(thought) + "\n</think>\n\n" +
         std::string(without_leading_newlines(content));
}

[[noreturn]] void refuse_messages(const std::string& what, const std::string& fix) {
  throw Error(ErrorCode::kData, {.what = what, .where = "messages", .fix = fix});
}

}  // namespace

std::string chat_text(const std::vector<ChatMessage>& messages) {
  // Thoughts are kept only after the user's last question, which a tool's answer is not.
  int64_t last_question = std::ssize(messages) - 1;
  for (int64_t i = last_question; i >= 0; --i) {
    if (messages[static_cast<size_t>(i)].role == "user" &&
        !is_tool_response(messages[static_cast<size_t>(i)])) {
      last_question = i;
      break;
    }
  }
  std::string text;
  for (int64_t i = 0; i < std::ssize(messages); ++i) {
    const auto& [role, content] = messages[static_cast<size_t>(i)];
    if (role != "system" && role != "user" && role != "assistant")
      refuse_messages("role `" + role + "` is not one of system, user, assistant",
                      "leave out conversations with tools");
    const bool is_answer = i > last_question;
    text += kChatStart + role + "\n";
    text += role == "assistant"
                ? assistant_turn(content, is_answer, is_answer && i + 1 == std::ssize(messages))
                : content;
    text += kChatEnd + std::string("\n");
  }
  return text;
}

std::string chat_prompt(const std::vector<ChatMessage>& messages, bool thinking) {
  if (messages.empty() || messages.back().role != "user")
    refuse_messages("the last message is not the user's", "end with {\"role\": \"user\", ...}");
  return chat_text(messages) + kChatStart + "assistant\n" +
         (thinking ? "" : "<think>\n\n</think>\n\n");
}

int32_t chat_end_token(const Tokenizer& tokenizer) {
  const std::vector<int32_t> start = tokenizer.encode(kChatStart), end = tokenizer.encode(kChatEnd);
  if (start.size() != 1 || end.size() != 1)
    throw Error(ErrorCode::kUnsupported,
                {.what = std::string(kChatStart) + " and " + kChatEnd +
                         " are no tokens of this model's tokenizer",
                 .where = "--chat",
                 .fix = "leave out --chat and give the prompt in the model's own format"});
  return end.front();
}

}  // namespace laos::hf
