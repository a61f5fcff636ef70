#include "hf/chat.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "core/words.h"
#include "hf/tokenizer_json.h"
#include "io/file.h"

namespace laos::hf {

// A family of formats. A template belongs to the first family of which it has all `marks`, and must
// have no tags (`<...>`, `[...]` in capitals) but these and `others`: a template with tags of its
// own does something else.
struct ChatFamily {
  std::string_view name;
  std::vector<std::string_view> marks, others;
  std::vector<std::string_view> tokens;  // that the tokenizer must have, besides the end's
  std::string_view end;                  // of an assistant's turn; "": eos_token
  std::string_view ask;                  // what begins an assistant's turn
  std::string (ChatFormat::*text)(const std::vector<ChatMessage>&) const;
  void (*learn)(const std::string& source, ChatFormat& format);

  static const std::vector<ChatFamily>& all();
  static void learn_chatml(const std::string& source, ChatFormat& format);
  static void learn_qwen3(const std::string& source, ChatFormat& format);
  static void learn_llama3(const std::string& source, ChatFormat& format);
  static void learn_llama2(const std::string&, ChatFormat&) {}
  static void learn_mistral(const std::string& source, ChatFormat& format);
  static void learn_zephyr(const std::string&, ChatFormat&) {}
  static std::optional<ChatFormat> of_template(const std::string& source,
                                               const std::filesystem::path& model_directory);
};

namespace {

constexpr int64_t kMaxTemplateBytes = int64_t{256} << 10;

using ChatJson = nlohmann::ordered_json;
using Messages = std::vector<ChatMessage>;

constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>";
constexpr const char* kImStart = "<|im_start|>";
constexpr const char* kImEnd = "<|im_end|>";

const std::vector<std::string_view> kToolTags = {
    "<tools>",         "</tools>",         "<tool_call>",     "</tool_call>",
    "<tool_response>", "</tool_response>", "<function-name>", "<args-json-object>"};

// "`a`, `b`"
template <class Names>
std::string listed_names(const Names& names) {
  return listed(names, "", "`");
}

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// Tags that a template writes or looks for.
std::set<std::string> tags_of(const std::string& source) {
  static const std::regex tag(R"(<[^<>\s'"{}()=,]{1,40}>|\[/?[A-Z_]{3,40}\])");
  return {std::sregex_token_iterator(source.begin(), source.end(), tag),
          std::sregex_token_iterator()};
}

// Escapes of Jinja strings as the characters they stand for, so that a line's end in a template
// counts the same however it is written.
std::string unescaped(std::string text) {
  for (const auto& [escape, character] :
       {std::pair("\\n", "\n"), std::pair("\\'", "'"), std::pair("\\\"", "\"")})
    for (size_t at = 0; (at = text.find(escape, at)) != std::string::npos; ++at)
      text.replace(at, 2, character);
  return text;
}

std::string_view without_leading_newlines(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}
std::string_view without_newlines(std::string_view text) {
  text = without_leading_newlines(text);
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

std::string trimmed(const std::string& text) {
  constexpr const char* kSpace = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
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

void require_roles(const Messages& messages, const std::vector<std::string_view>& roles,
                   const std::string& format) {
  for (const ChatMessage& message : messages)
    if (std::find(roles.begin(), roles.end(), message.role) == roles.end())
      refuse_messages("the chat format " + format + " has no turn for " + message.role,
                      "its roles are " + listed_names(roles));
}

// User and assistant take turns from the first message on.
void require_turns(const Messages& messages, size_t first, const std::string& format) {
  for (size_t i = first; i < messages.size(); ++i)
    if (messages[i].role != ((i - first) % 2 == 0 ? "user" : "assistant"))
      refuse_messages("in the chat format " + format +
                          " user and assistant take turns, beginning with the user",
                      "leave such conversations out");
}

// A token that is a string or an object with `content`.
std::string token_of(const ChatJson& config, const char* key) {
  ChatJson token = config.value(key, ChatJson());
  if (token.is_object()) token = token.value("content", ChatJson());
  return token.is_string() ? token.get<std::string>() : "";
}

std::optional<std::string> template_of(const std::filesystem::path& model_directory) {
  const std::filesystem::path file = model_directory / "chat_template.jinja";
  std::error_code ignored;
  if (std::filesystem::exists(file, ignored)) return io::read_text(file, kMaxTemplateBytes);
  const ChatJson config = read_tokenizer_config(model_directory);
  ChatJson found = config.value("chat_template", ChatJson());
  if (found.is_array()) {
    ChatJson chosen;
    for (const ChatJson& entry : found)
      if (entry.is_object() && entry.value("name", ChatJson()) == ChatJson("default"))
        chosen = entry.value("template", ChatJson());
    found = std::move(chosen);
  }
  if (!found.is_string()) return std::nullopt;
  auto text = found.get<std::string>();
  if (std::ssize(text) > kMaxTemplateBytes)
    throw Error(ErrorCode::kFormat, {.what = "the chat template has more than 256 KiB",
                                     .where = (model_directory / "tokenizer_config.json").string(),
                                     .fix = "restore the file from its source"});
  return text;
}

}  // namespace

ChatFormat::ChatFormat(const ChatFamily& family, const std::filesystem::path& model_directory)
    : family_(&family), name_(family.name) {
  const ChatJson config = read_tokenizer_config(model_directory);
  bos_ = token_of(config, "bos_token");
  eos_ = token_of(config, "eos_token");
}

const std::vector<ChatFamily>& ChatFamily::all() {
  static const std::vector<ChatFamily> rows = [] {
    std::vector<ChatFamily> table;
    std::vector<std::string_view> thinking = kToolTags;
    thinking.insert(thinking.end(), {kThink, kThinkEnd});
    table.push_back({"qwen3",
                     {kImStart, kImEnd, kThinkEnd, "last_query_index"},
                     thinking,
                     {kImStart},
                     kImEnd,
                     "<|im_start|>assistant\n",
                     &ChatFormat::chatml,
                     ChatFamily::learn_qwen3});
    table.push_back({"chatml",
                     {kImStart, kImEnd},
                     kToolTags,
                     {kImStart},
                     kImEnd,
                     "<|im_start|>assistant\n",
                     &ChatFormat::chatml,
                     ChatFamily::learn_chatml});
    table.push_back({"llama3",
                     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
                     {"<|python_tag|>", "<|eom_id|>", "<|begin_of_text|>"},
                     {"<|start_header_id|>", "<|end_header_id|>"},
                     "<|eot_id|>",
                     "<|start_header_id|>assistant<|end_header_id|>\n\n",
                     &ChatFormat::llama3,
                     ChatFamily::learn_llama3});
    table.push_back({"llama2",
                     {"[INST]", "[/INST]", "<<SYS>>"},
                     {"<SYS>", "</SYS>"},
                     {},
                     "",
                     "",
                     &ChatFormat::llama2,
                     ChatFamily::learn_llama2});
    table.push_back({"mistral",
                     {"[INST]", "[/INST]"},
                     {"[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
                      "[/TOOL_RESULTS]"},
                     {},
                     "",
                     "",
                     &ChatFormat::mistral,
                     ChatFamily::learn_mistral});
    table.push_back({"zephyr",
                     {"<|user|>", "<|system|>", "<|assistant|>", "eos_token"},
                     {},
                     {},
                     "",
                     "<|assistant|>\n",
                     &ChatFormat::zephyr,
                     ChatFamily::learn_zephyr});
    return table;
  }();
  return rows;
}

void ChatFamily::learn_chatml(const std::string& source, ChatFormat& format) {
  // A system turn that is written as it stands, and not put together from a message.
  constexpr std::string_view kSystem = "<|im_start|>system\n";
  for (size_t at = 0; (at = source.find(kSystem, at)) != std::string::npos;) {
    at += kSystem.size();
    const std::string turn = source.substr(at, source.find(kImEnd, at) - at);
    const auto puts_together = [&](const char* sign) { return has(turn, sign); };
    if (std::ranges::any_of(std::array{"{", "}", "' +", "\" +", "'+", "\"+"}, puts_together))
      continue;
    format.has_default_system_ = true;
    format.default_system_ = turn;
    break;
  }
  // Quantifiers are bounded in all expressions here: std::regex calls itself for every character.
  static const std::regex trim(R"(content['"]?\]?\s{0,8}\|\s{0,8}trim)");
  format.trims_ = std::regex_search(source, trim);
  format.groups_tools_ = has(source, "<tool_response>");
}

void ChatFamily::learn_qwen3(const std::string& source, ChatFormat& format) {
  format.groups_tools_ = true;
  format.thinks_ = true;
  format.opens_thought_ = !source.empty() && !has(source, "enable_thinking");
}

void ChatFamily::learn_llama3(const std::string& source, ChatFormat& format) {
  format.trims_ = true;
  // Where the template has a date it asks the clock in newer versions. Text must not depend on the
  // day, so the date is the one that it falls back to.
  static const std::regex date(R"(['"](\d\d? [A-Z][a-z][a-z] \d\d\d\d)['"])");
  std::smatch found;
  if (has(source, "Cutting Knowledge Date") && std::regex_search(source, found, date))
    format.date_ = found[1];
}

void ChatFamily::learn_mistral(const std::string& source, ChatFormat& format) {
  format.before_question_ = "[INST] ";
  format.after_question_ = "[/INST]";
  format.before_answer_ = " ";
  format.system_ = ChatFormat::System::kFirstQuestion;
  if (source.empty()) return;
  std::smatch found;
  static const std::regex before(
      R"(['"]([^'"]{0,80}\[INST\][^'"]{0,80})['"]\s{0,8}\+\s{0,8}message)"),
      after(R"(content['"]?\]?\s{0,8}\+\s{0,8}['"]([^'"]{0,80}\[/INST\][^'"]{0,80})['"])"),
      answer(
          R"((?:['"]( {0,8})['"]\s{0,8}\+\s{0,8})?(?:message\[['"]content['"]\]|message\.content))"
          R"((\s{0,8}\|\s{0,8}trim)?\s{0,8}\+\s{0,8}eos_token(?:\s{0,8}\+\s{0,8}['"]([^'"]{0,80})['"])?)");
  if (std::regex_search(source, found, before)) format.before_question_ = found[1];
  if (std::regex_search(source, found, after)) format.after_question_ = found[1];
  if (std::regex_search(source, found, answer)) {
    format.before_answer_ = found[1];
    format.trims_ = found[2].matched;
    format.after_answer_ = found[3];
  }
  if (!has(source, "system_message"))
    format.system_ = ChatFormat::System::kRefused;
  else if (has(source, "loop.last and system_message"))
    format.system_ = ChatFormat::System::kLastQuestion;
}

std::optional<ChatFormat> ChatFamily::of_template(const std::string& source,
                                                  const std::filesystem::path& model_directory) {
  const std::string text = unescaped(source);
  const std::set<std::string> tags = tags_of(text);
  for (const ChatFamily& family : ChatFamily::all()) {
    const auto is_in = [&](std::string_view mark) { return has(text, mark); };
    if (!std::all_of(family.marks.begin(), family.marks.end(), is_in)) continue;
    const auto is_known = [&](const std::string& tag) {
      return std::find(family.marks.begin(), family.marks.end(), tag) != family.marks.end() ||
             std::find(family.others.begin(), family.others.end(), tag) != family.others.end();
    };
    if (!std::all_of(tags.begin(), tags.end(), is_known)) continue;
    ChatFormat format(family, model_directory);
    if (!has(text, "bos_token")) {
      format.bos_ = "";
      if (has(text, "<|begin_of_text|>")) format.bos_ = "<|begin_of_text|>";
    }
    // ChatML ends turns with a token of its own; where eos_token stands too, it does more.
    if (!family.end.empty() && has(text, "eos_token")) continue;
    family.learn(text, format);
    return format;
  }
  return std::nullopt;
}

std::vector<std::string> ChatFormat::names() {
  std::vector<std::string> names;
  for (const ChatFamily& family : ChatFamily::all()) names.emplace_back(family.name);
  return names;
}

ChatFormat ChatFormat::named(const std::string& name,
                             const std::filesystem::path& model_directory) {
  for (const ChatFamily& family : ChatFamily::all()) {
    if (family.name != name) continue;
    // The checkpoint's own is of this family, or another that was not asked for.
    if (const std::optional<std::string> source = template_of(model_directory))
      if (std::optional<ChatFormat> own = ChatFamily::of_template(*source, model_directory);
          own && own->name_ == name)
        return *own;
    ChatFormat format(family, model_directory);
    if (family.text == &ChatFormat::chatml || family.text == &ChatFormat::zephyr) format.bos_ = "";
    family.learn("", format);
    return format;
  }
  throw Error(ErrorCode::kUsage, {.what = "no chat format is named `" + name + "`",
                                  .where = "--chat-format",
                                  .fix = "laos knows " + listed_names(names())});
}

std::optional<ChatFormat> ChatFormat::of_model(const std::filesystem::path& model_directory) {
  const std::optional<std::string> source = template_of(model_directory);
  if (!source) return std::nullopt;
  if (std::optional<ChatFormat> format = ChatFamily::of_template(*source, model_directory))
    return format;
  const std::set<std::string> all = tags_of(*source);
  constexpr int64_t kShown = 8;
  const std::vector<std::string> tags(all.begin(),
                                      std::next(all.begin(), std::min(kShown, std::ssize(all))));
  throw Error(ErrorCode::kUnsupported,
              {.what = "the checkpoint's chat template" +
                       (tags.empty() ? "" : ", with " + listed_names(tags) + ",") +
                       " is not one that laos knows",
               .where = model_directory.string(),
               .fix = "choose one by --chat-format: " + listed_names(names())});
}

ChatFormat ChatFormat::assumed(const Tokenizer& tokenizer,
                               const std::filesystem::path& model_directory) {
  for (const ChatFamily& family : ChatFamily::all()) {
    if (family.tokens.empty()) continue;
    ChatFormat format = named(std::string(family.name), model_directory);
    try {
      format.end_token(tokenizer);
    } catch (const Error&) {
      continue;
    }
    return format;
  }
  throw Error(
      ErrorCode::kUnsupported,
      {.what = "the model has no chat template that laos knows, and no tokens of this model's "
               "tokenizer are those of a chat format",
       .where = model_directory.string(),
       .fix = "give text in the model's own format, or choose one by --chat-format: " +
              listed_names(names())});
}

int32_t ChatFormat::end_token(const Tokenizer& tokenizer) const {
  const std::string end(family_->end.empty() ? eos_ : family_->end);
  std::vector<std::string> tokens(family_->tokens.begin(), family_->tokens.end());
  tokens.push_back(end);
  int32_t id = -1;
  for (const std::string& token : tokens) {
    const std::vector<int32_t> ids =
        token.empty() ? std::vector<int32_t>() : tokenizer.encode(token);
    if (ids.size() != 1)
      throw Error(ErrorCode::kUnsupported,
                  {.what = (token.empty() ? "eos_token" : token) + " of the chat format " + name_ +
                           " is no token of this model's tokenizer",
                   .where = "chat format",
                   .fix = "give text in the model's own format, or choose another by "
                          "--chat-format: " +
                          listed_names(names())});
    id = ids.front();
  }
  return id;
}

ChosenChat choose_chat_format(const std::string& name, const std::filesystem::path& model_directory,
                              const Tokenizer& tokenizer, bool assume) {
  std::string why = "the model has no chat template";
  if (!name.empty()) {
    ChosenChat chosen{ChatFormat::named(name, model_directory), ""};
    chosen.format.end_token(tokenizer);
    return chosen;
  }
  try {
    if (std::optional<ChatFormat> own = ChatFormat::of_model(model_directory)) {
      own->end_token(tokenizer);
      return {std::move(*own), ""};
    }
  } catch (const Error& error) {
    if (!assume || error.code() != ErrorCode::kUnsupported) throw;
    why = error.problems().front().what;
  }
  ChatFormat format = ChatFormat::assumed(tokenizer, model_directory);
  std::string warning = why + ": conversations are written in the chat format " + format.name() +
                        ", for which it has the tokens; --chat-format chooses another";
  return {std::move(format), std::move(warning)};
}

std::string ChatFormat::chatml(const Messages& messages) const {
  require_roles(messages, {"system", "user", "assistant", "tool"}, name_);
  // Thoughts are kept only after the user's last question, which a tool's answer is not.
  int64_t last_question = std::ssize(messages) - 1;
  for (int64_t i = last_question; i >= 0; --i) {
    if (messages[static_cast<size_t>(i)].role == "user" &&
        !is_tool_response(messages[static_cast<size_t>(i)])) {
      last_question = i;
      break;
    }
  }
  std::string text = bos_;
  if (has_default_system_ && messages.front().role != "system")
    text += kImStart + ("system\n" + default_system_) + kImEnd + "\n";
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto& [role, said] = messages[i];
    const std::string content = trims_ ? trimmed(said) : said;
    if (role == "tool" && groups_tools_) {
      if (i == 0 || messages[i - 1].role != "tool") text += kImStart + std::string("user");
      text += "\n<tool_response>\n" + content + "\n</tool_response>";
      if (i + 1 == messages.size() || messages[i + 1].role != "tool")
        text += kImEnd + std::string("\n");
      continue;
    }
    const bool is_answer = static_cast<int64_t>(i) > last_question;
    text += kImStart + role + "\n";
    text += role == "assistant" && thinks_
                ? assistant_turn(content, is_answer, is_answer && i + 1 == messages.size())
                : content;
    text += kImEnd + std::string("\n");
  }
  return text;
}

std::string ChatFormat::llama3(const Messages& messages) const {
  require_roles(messages, {"system", "user", "assistant", "tool"}, name_);
  const auto turn = [](const std::string& role, const std::string& content) {
    return "<|start_header_id|>" + role + "<|end_header_id|>\n\n" + content + "<|eot_id|>";
  };
  std::string text = bos_;
  size_t first = 0;
  if (!date_.empty()) {
    std::string system;
    if (messages.front().role == "system") system = trimmed(messages[first++].content);
    text += turn("system",
                 "Cutting Knowledge Date: December 2023\nToday Date: " + date_ + "\n\n" + system);
  }
  for (size_t i = first; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "tool" && !date_.empty())
      text += turn("ipython", ChatJson(content).dump());  // as a JSON string, and not trimmed
    else
      text += turn(role, trimmed(content));
  }
  return text;
}

std::string ChatFormat::llama2(const Messages& messages) const {
  require_roles(messages, {"system", "user", "assistant"}, name_);
  const bool has_system = messages.front().role == "system";
  require_turns(messages, has_system ? 1 : 0, name_);
  std::string text;
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "assistant") {
      text += " " + trimmed(content) + " " + eos_;
      continue;
    }
    const bool with_system = has_system && i == 1;
    const std::string question =
        with_system ? "<<SYS>>\n" + messages.front().content + "\n<</SYS>>\n\n" + content : content;
    text += bos_ + "[INST] " + trimmed(question) + " [/INST]";
  }
  return text;
}

std::string ChatFormat::mistral(const Messages& messages) const {
  require_roles(messages,
                system_ == System::kRefused
                    ? std::vector<std::string_view>{"user", "assistant"}
                    : std::vector<std::string_view>{"system", "user", "assistant"},
                name_);
  const size_t first = messages.front().role == "system" ? 1 : 0;
  require_turns(messages, first, name_);
  std::string text = bos_;
  for (size_t i = first; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    if (role == "assistant") {
      text += before_answer_ + (trims_ ? trimmed(content) : content) + eos_ + after_answer_;
      continue;
    }
    const bool with_system =
        first == 1 && (system_ == System::kLastQuestion ? i + 1 == messages.size() : i == first);
    text += before_question_ + (with_system ? messages.front().content + "\n\n" : "") + content +
            after_question_;
  }
  return text;
}

std::string ChatFormat::zephyr(const Messages& messages) const {
  require_roles(messages, {"system", "user", "assistant"}, name_);
  std::string text;
  for (const auto& [role, content] : messages) text += "<|" + role + "|>\n" + content + eos_ + "\n";
  return text;
}

std::string ChatFormat::text(const Messages& messages) const {
  if (messages.empty()) refuse_messages("there are no messages", "give one at least");
  return (this->*family_->text)(messages);
}

std::string ChatFormat::prompt(const Messages& messages, bool thinking) const {
  if (messages.empty() || (messages.back().role != "user" && messages.back().role != "tool"))
    refuse_messages("the last message is not the user's", "end with {\"role\": \"user\", ...}");
  std::string prompt = text(messages) + std::string(family_->ask);
  if (opens_thought_) return prompt + "<think>\n";
  if (thinks_ && !thinking) prompt += "<think>\n\n</think>\n\n";
  return prompt;
}

}  // namespace laos::hf
