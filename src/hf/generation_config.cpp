#include "hf/generation_config.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hf/json_file.h"
#include "io/file.h"

namespace laos::hf {

std::vector<int32_t> read_eos_token_ids(const std::filesystem::path& directory) {
  using Json = nlohmann::json;
  constexpr int64_t kMaxBytes = 1'000'000;
  std::vector<int32_t> ids;
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::filesystem::path path = directory / name;
    if (!std::filesystem::exists(path)) continue;
    const Json json = parse_json<Json>(io::read_text(path, kMaxBytes), path, /*max_values=*/10'000);
    const auto value = json.find("eos_token_id");  // end() also when the JSON is no object
    if (value == json.end() || value->is_null()) continue;
    for (const Json& id : value->is_array() ? *value : Json::array({*value})) {
      if (!id.is_number_unsigned() ||
          id.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()))
        throw Error(ErrorCode::kFormat, {.what = "eos_token_id is no token id or list of them",
                                         .where = path.string(),
                                         .fix = "restore the file from the model's source"});
      ids.push_back(id.get<int32_t>());
    }
    break;
  }
  return ids;
}

}  // namespace laos::hf
