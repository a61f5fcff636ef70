#include "hf/prompts.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/error.h"
#include "hf/json_file.h"
#include "hf/unicode.h"
#include "io/file.h"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxBytes = int64_t{1} << 28;

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  throw Error(ErrorCode::kData,
              {.what = what,
               .where = where,
               .fix = "write a string, {\"prompt\": \"...\"}, {\"messages\": [{\"role\": \"user\", "
                      "\"content\": \"...\"}]} or {\"ids\": [1, 2]}"});
}

ChatMessage message_of(const Json& json, const std::string& where) {
  ChatMessage message;
  if (!json.is_object()) refuse("a message is no object", where);
  for (const auto& [key, value] : json.items()) {
    if ((key != "role" && key != "content") || !value.is_string())
      refuse("a message has role and content, both strings, and not `" + key + "`", where);
    (key == "role" ? message.role : message.content) = value.get<std::string>();
  }
  if (message.role.empty()) refuse("a message has no role", where);
  return message;
}

Prompt prompt_of(const Json& json, const std::string& where) {
  Prompt prompt;
  const bool is_single = json.is_object() && json.size() == 1;
  if (json.is_string()) {
    prompt.text = json.get<std::string>();
  } else if (is_single && json.contains("prompt") && json["prompt"].is_string()) {
    prompt.text = json["prompt"].get<std::string>();
  } else if (is_single && json.contains("messages") && json["messages"].is_array()) {
    for (const Json& message : json["messages"])
      prompt.messages.push_back(message_of(message, where));
  } else if (is_single && json.contains("ids") && json["ids"].is_array()) {
    for (const Json& id : json["ids"]) {
      if (!id.is_number_unsigned() ||
          id.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()))
        refuse("this is no list of token ids", where);
      prompt.ids.push_back(id.get<int32_t>());
    }
  } else {
    refuse("this is no prompt", where);
  }
  if (prompt.text.empty() && prompt.messages.empty() && prompt.ids.empty())
    refuse("the prompt is empty", where);
  return prompt;
}

Json parse(const std::string& text, const std::string& where) {
  try {
    return parse_json<Json>(text, where, /*max_values=*/1'000'000);
  } catch (const Error& error) {
    throw Error(ErrorCode::kData, error.problems());
  }
}

}  // namespace

std::vector<Prompt> load_prompts(const std::filesystem::path& file) {
  const std::string text = io::read_text(file, kMaxBytes), name = file.string();
  std::vector<Prompt> prompts;
  if (file.extension() == ".json") {
    const Json list = parse(text, name);
    if (!list.is_array()) refuse("this is no list of prompts", name);
    for (const Json& item : list)
      prompts.push_back(prompt_of(item, name + ": item " + std::to_string(prompts.size() + 1)));
  } else {
    const bool is_jsonl = file.extension() == ".jsonl";
    std::string_view rest = text;
    for (int64_t number = 1; !rest.empty(); ++number) {
      std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
      const std::string where = name + ":" + std::to_string(number);
      if (is_jsonl)
        prompts.push_back(prompt_of(parse(std::string(line), where), where));
      else if (first_invalid_utf8(line) != std::string_view::npos)
        refuse("the line is not UTF-8", where);
      else
        prompts.push_back({.text = std::string(line), .messages = {}, .ids = {}});
    }
  }
  if (prompts.empty()) refuse("there is no prompt", name);
  return prompts;
}

}  // namespace laos::hf
