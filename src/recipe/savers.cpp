#include "recipe/savers.h"

namespace laos::recipe {
namespace {

constexpr int64_t kMaxPartFileGiB = int64_t{1}
                                    << 20;  // a pebibyte; keeps the size in bytes within int64

const std::vector<std::string> kSupportedSavers = {"ascendv1_saver"};
const std::vector<std::string> kOtherSavers = {"mindie_format_saver", "compressed_tensors"};
const MapSchema kAscendV1Keys = {"ascendv1_saver",
                                 {"type", "part_file_size", "ext", "save_directory"}};

}  // namespace

bool is_saver(const std::string& type) {
  return contains(kSupportedSavers, type) || contains(kOtherSavers, type);
}

std::vector<const MapSchema*> saver_schemas() { return {&kAscendV1Keys}; }

std::optional<save::AscendV1Options> read_saver(Report& report, const Value& value) {
  if (!require_map(report, value)) return std::nullopt;
  if (!read_type(report, value, "saver", kSupportedSavers, kOtherSavers)) return std::nullopt;
  const MapReader reader(report, value, kAscendV1Keys);
  save::AscendV1Options options;
  reader.integer("part_file_size", 0, kMaxPartFileGiB, options.part_file_size);
  if (const auto ext = reader.find("ext")) require_map(report, *ext);
  if (const auto directory = reader.find("save_directory");
      directory && !directory->node->is_null()) {
    read_text(report, *directory, kMaxDatasetCharacters);
  }
  return options;
}

}  // namespace laos::recipe
