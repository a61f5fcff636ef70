// A whole safetensors file.
#include "fuzz.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace laos;
  static const auto path = fuzz::directory() / "model.safetensors";
  fuzz::write_file(path, fuzz::text_of(data, size));
  fuzz::expect_answer([&] {
    const io::TensorFiles files = io::TensorFiles::open_files({path});
    int64_t bytes = 0;
    unsigned sum = 0;
    for (const auto& [name, tensor] : files.tensors()) {
      LAOS_FUZZ_REQUIRE(files.file_of(name) == "model.safetensors");
      bytes += tensor.size_bytes();
      for (int64_t i = 0; i < tensor.size_bytes(); ++i)
        sum += static_cast<unsigned>(tensor.data[i]);
    }
    LAOS_FUZZ_REQUIRE(bytes <= static_cast<int64_t>(size));
    // So that the bytes are read.
    [[maybe_unused]] volatile const unsigned sink = sum;
  });
  return 0;
}
