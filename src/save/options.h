// Options of a saver.
#pragma once

#include <cstdint>

namespace laos::save {

class Format;
const Format& ascendv1_format() noexcept;
const Format& compressed_tensors_format() noexcept;
const Format& gptq_format() noexcept;

struct SaverOptions {
  const Format* format = &ascendv1_format();
  int64_t part_file_size = 4;  // GiB a shard; 0 = one file without an index
};

}  // namespace laos::save
