// The chat format of Qwen3 (its tokenizer's chat_template) for plain turns: no tools.
#pragma once

#include <string>
#include <vector>

#include "hf/tokenizer.h"

namespace laos::hf {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

inline constexpr const char* kChatStart = "<|im_start|>";
inline constexpr const char* kChatEnd = "<|im_end|>";

// The text of a whole conversation. Of assistant turns before the last question the thinking (up to
// </think>) is left out, as the template does. Throws Error(kData) when a role is another one.
std::string chat_text(const std::vector<ChatMessage>& messages);

// The text that asks the model for the next assistant turn. Without `thinking` the turn begins with
// an empty thought. Throws Error(kData) as chat_text, when there are no messages, and when the last
// is not the user's.
std::string chat_prompt(const std::vector<ChatMessage>& messages, bool thinking);

// The id of kChatEnd. Throws Error(kUnsupported) unless kChatStart and kChatEnd are tokens: then
// the model was not made for this format.
int32_t chat_end_token(const Tokenizer& tokenizer);

}  // namespace laos::hf
