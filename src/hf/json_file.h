// Small JSON files read with bounds: hostile ones cost neither stack nor time nor memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/error.h"
#include "io/file.h"
#include "io/lfs.h"

namespace laos::hf {

// Of JSON before it is parsed: how deep its brackets nest, and values at most. Of text that is not
// JSON, anything.
struct JsonSize {
  int64_t depth = 0;
  int64_t num_values = 0;
};
JsonSize measure_json(std::string_view text) noexcept;

// Parses `text` of the file `path` (for messages only). `on_key` is called for every key with its
// depth (1 = of the top object); it may throw. Throws Error(kFormat) for a git-LFS pointer,
// malformed JSON, more than 100 levels of nesting, and more than `max_values` values: a value of
// one byte takes a hundred in memory, and ordered_json looks keys up one by one.
template <class Json>
Json parse_json(const std::string& text, const std::filesystem::path& path, int64_t max_values,
                const std::function<void(int depth, const std::string& key)>& on_key = {}) {
  constexpr int64_t kMaxDepth = 100;
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kFormat,
                {.what = what, .where = path.string(), .fix = "restore the file from its source"});
  };
  if (io::is_lfs_pointer(text))
    throw Error(ErrorCode::kFormat,
                {.what = io::kLfsPointer, .where = path.string(), .fix = io::kFetchLfs});
  // nlohmann takes NUL for the end of its input, which would hide what follows.
  if (text.find('\0') != std::string::npos) refuse("the JSON holds a NUL byte");
  const JsonSize size = measure_json(text);
  if (size.depth > kMaxDepth) refuse("the JSON is nested too deeply");
  if (size.num_values > max_values)
    refuse("the JSON has more than " + std::to_string(max_values) + " values, as no real file has");
  try {
    if (!on_key) return Json::parse(text);
    return Json::parse(text, [&](int depth, typename Json::parse_event_t event, Json& parsed) {
      if (event == Json::parse_event_t::key)
        on_key(depth, parsed.template get_ref<const std::string&>());
      return true;
    });
  } catch (const nlohmann::json::exception& e) {
    refuse(std::string("not valid JSON: ") + e.what());
  }
  return {};  // not reached: refuse throws
}

}  // namespace laos::hf
