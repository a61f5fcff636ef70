#include "recipe/savers.h"

#include <algorithm>

#include "save/format.h"

namespace laos::recipe {
namespace {

constexpr int64_t kMaxPartFileGiB = int64_t{1}
                                    << 20;  // a pebibyte; keeps the size in bytes within int64

std::vector<std::string> supported_savers() {
  std::vector<std::string> types;
  for (const save::Format* format : save::formats()) types.emplace_back(format->saver_type());
  return types;
}

const std::vector<std::string> kOtherSavers = {"mindie_format_saver", "compressed_tensors"};
const std::vector<std::string> kSaverKeys = {"type", "part_file_size", "ext", "save_directory"};

// One for each format, in their order.
const std::vector<MapSchema>& schemas() {
  static const std::vector<MapSchema> all = [] {
    std::vector<MapSchema> made;
    for (const std::string& type : supported_savers()) made.push_back({type, kSaverKeys});
    return made;
  }();
  return all;
}

}  // namespace

bool is_saver(const std::string& type) {
  return contains(supported_savers(), type) || contains(kOtherSavers, type);
}

std::vector<const MapSchema*> saver_schemas() {
  std::vector<const MapSchema*> pointers;
  for (const MapSchema& schema : schemas()) pointers.push_back(&schema);
  return pointers;
}

std::optional<save::SaverOptions> read_saver(Report& report, const Value& value) {
  if (!require_map(report, value)) return std::nullopt;
  const auto type = read_type(report, value, "saver", supported_savers(), kOtherSavers);
  if (!type) return std::nullopt;
  const MapReader reader(report, value, *std::ranges::find(schemas(), *type, &MapSchema::title));
  save::SaverOptions options;
  for (const save::Format* format : save::formats())
    if (format->saver_type() == *type) options.format = format;
  reader.integer("part_file_size", 0, kMaxPartFileGiB, options.part_file_size);
  if (const auto ext = reader.find("ext")) require_map(report, *ext);
  if (const auto directory = reader.find("save_directory");
      directory && !directory->node->is_null()) {
    read_text(report, *directory, kMaxDatasetCharacters);
  }
  return options;
}

}  // namespace laos::recipe
