// Chat formats: how the turns of a conversation become text. A checkpoint brings its own as a
// program in Jinja (`chat_template`); laos knows families of them by what they write, and takes
// what differs between their members (a default system turn, blanks, tokens) from the checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hf/tokenizer.h"

namespace laos::hf {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant" or "tool"
  std::string content;
};

struct ChatFamily;  // a row of the table in chat.cpp

class ChatFormat {
 public:
  // "chatml", "qwen3", ...
  static std::vector<std::string> names();
  // A family's format with no default system turn and the tokens that tokenizer_config.json of
  // `model_directory` names. Throws Error(kUsage) for a name that is not in names().
  static ChatFormat named(const std::string& name, const std::filesystem::path& model_directory);
  // That of the checkpoint's chat_template.jinja or of `chat_template` in tokenizer_config.json
  // (of several templates the one named "default"); nothing where it has no template. Throws
  // Error(kUnsupported) naming the template's own tags when it is of no family, Error(kFormat).
  static std::optional<ChatFormat> of_model(const std::filesystem::path& model_directory);
  // Of the format that the tokenizer has tokens for: what is left where there is no template, or
  // none that is known. Throws Error(kUnsupported) when there is none.
  static ChatFormat assumed(const Tokenizer& tokenizer,
                            const std::filesystem::path& model_directory);

  const std::string& name() const noexcept { return name_; }
  // Whether an answer may begin with a thought.
  bool thinks() const noexcept { return thinks_; }

  // The text of a whole conversation, as the template makes it without a generation prompt. Begins
  // with the model's first token where the template writes it. Throws Error(kData) for roles, or an
  // order of them, that the format cannot hold.
  std::string text(const std::vector<ChatMessage>& messages) const;
  // The text that asks for the next assistant turn. Without `thinking` a format that thinks begins
  // it with an empty thought. Throws Error(kData) as text, and when the last message is not the
  // user's or a tool's.
  std::string prompt(const std::vector<ChatMessage>& messages, bool thinking = true) const;
  // The id of the token that ends an assistant's turn. Throws Error(kUnsupported) unless all tokens
  // of the format are tokens of the tokenizer: then the model was not made for it.
  int32_t end_token(const Tokenizer& tokenizer) const;

 private:
  friend struct ChatFamily;
  ChatFormat(const ChatFamily& family, const std::filesystem::path& model_directory);

  std::string chatml(const std::vector<ChatMessage>& messages) const;
  std::string llama3(const std::vector<ChatMessage>& messages) const;
  std::string llama2(const std::vector<ChatMessage>& messages) const;
  std::string mistral(const std::vector<ChatMessage>& messages) const;
  std::string zephyr(const std::vector<ChatMessage>& messages) const;

  const ChatFamily* family_;
  std::string name_;
  std::string bos_, eos_;       // of tokenizer_config.json; "" where the template writes none
  std::string default_system_;  // chatml: where the conversation has no system turn
  bool has_default_system_ = false;
  bool trims_ = false;         // what a turn says
  bool groups_tools_ = false;  // chatml: tools answer in a user's turn, between tags
  bool thinks_ = false;
  bool opens_thought_ = false;  // qwen3: the answer always begins with a thought
  std::string date_;            // llama3: of the heading; "": no heading
  std::string before_question_, after_question_, before_answer_, after_answer_;  // mistral
  enum class System { kRefused, kFirstQuestion, kLastQuestion } system_ = System::kRefused;
};

// The format to use of a model, with a warning where it was assumed.
struct ChosenChat {
  ChatFormat format;
  std::string warning;  // "" when there is nothing to say
};
// `name` if not empty, else the checkpoint's own, else the assumed one; with `assume` also in place
// of a template that is not known. The tokenizer has the format's tokens. Throws Error as
// ChatFormat's functions.
ChosenChat choose_chat_format(const std::string& name, const std::filesystem::path& model_directory,
                              const Tokenizer& tokenizer, bool assume);

}  // namespace laos::hf
