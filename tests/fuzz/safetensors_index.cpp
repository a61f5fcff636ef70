// model.safetensors.index.json beside two shards, with a file that lies outside their directory.
#include <vector>

#include "fuzz.h"
#include "io/safetensors.h"

namespace {

using namespace laos;

void write_shard(const std::filesystem::path& directory, const std::string& stem,
                 const std::vector<std::string>& names) {
  std::vector<io::TensorSpec> specs;
  for (const std::string& name : names) specs.push_back({name, DType::kI8, {2}});
  io::ShardedWriter writer(directory, io::plan_shards(specs, stem, 0));
  for (const std::string& name : names) writer.write(name, std::vector<std::byte>(2));
  writer.commit();
}

std::filesystem::path prepare() {
  const std::filesystem::path directory = fuzz::directory() / "model";
  std::filesystem::create_directory(directory);
  write_shard(directory, "a", {"x", "y"});
  write_shard(directory, "b", {"z"});
  write_shard(fuzz::directory().path(), "outside", {"secret"});
  return directory;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto directory = prepare();
  fuzz::write_file(directory / "model.safetensors.index.json", fuzz::text_of(data, size));
  fuzz::expect_answer([&] {
    const io::TensorFiles files = io::TensorFiles::open(directory, "model");
    LAOS_FUZZ_REQUIRE(!files.contains("secret"));
  });
  return 0;
}
