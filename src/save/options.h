// Options of the ascendv1_saver.
#pragma once

#include <cstdint>

namespace laos::save {

struct AscendV1Options {
  int64_t part_file_size = 4;  // GiB a shard; 0 = one file without an index
};

}  // namespace laos::save
