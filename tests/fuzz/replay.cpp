// In place of libFuzzer: hands every file of the given directories to the target, so that seeds and
// former findings are tests of every build. Fails where a directory holds none.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "fuzz.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: replay DIRECTORY...\n";
    return 2;
  }
  for (int i = 1; i < argc; ++i) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(argv[i]))
      if (entry.is_regular_file()) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    if (paths.empty()) {
      std::cerr << "no inputs in " << argv[i] << '\n';
      return 1;
    }
    for (const std::filesystem::path& path : paths) {
      std::cout << path.string() << std::endl;
      std::ifstream stream(path, std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
      // A buffer of exactly that size: reading past it is seen.
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
  }
  return 0;
}
