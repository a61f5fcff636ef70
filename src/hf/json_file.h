// Small JSON files read with bounds: hostile ones cost neither stack nor time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "io/file.h"

namespace laos::hf {

// Parses `text` of the file `path` (for messages only). `on_key` is called for every key with its
// depth (1 = of the top object); it may throw. Throws Error(kFormat) for malformed JSON, more than
// 100 levels of nesting, and, since ordered_json looks keys up one by one, more than `max_keys`
// keys.
template <class Json>
Json parse_json(const std::string& text, const std::filesystem::path& path, int64_t max_keys,
                const std::function<void(int depth, const std::string& key)>& on_key = {}) {
  constexpr int kMaxDepth = 100;
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kFormat,
                {.what = what, .where = path.string(), .fix = "restore the file from its source"});
  };
  // nlohmann takes NUL for the end of its input, which would hide what follows.
  if (text.find('\0') != std::string::npos) refuse("the JSON holds a NUL byte");
  int64_t keys = 0;
  try {
    return Json::parse(text, [&](int depth, typename Json::parse_event_t event, Json& parsed) {
      if (depth > kMaxDepth) refuse("the JSON is nested too deeply");
      if (event == Json::parse_event_t::key) {
        if (++keys > max_keys) refuse("the JSON has more keys than any real file");
        if (on_key) on_key(depth, parsed.template get_ref<const std::string&>());
      }
      return true;
    });
  } catch (const nlohmann::json::exception& e) {
    refuse(std::string("not valid JSON: ") + e.what());
  }
  return {};  // not reached: refuse throws
}

}  // namespace laos::hf
