// What the fuzz targets share. A target is one LLVMFuzzerTestOneInput: it hands `data` to a reader
// of files and holds what comes back against what the reader promises. laos::Error is an answer;
// any other exception, a signal, a sanitizer's report or a failed require() is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string_view>

#include "core/error.h"
#include "support/temporary_directory.h"

namespace laos::fuzz {

// Every process has its own directory, in memory where TMPDIR says so.
inline const test::TemporaryDirectory& directory() {
  static const test::TemporaryDirectory directory;
  return directory;
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

#define LAOS_FUZZ_REQUIRE(condition)                                               \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

// Runs `read`; an Error must say what is wrong, in lines fit for a terminal.
template <class F>
void expect_answer(F&& read) {
  try {
    read();
  } catch (const Error& error) {
    LAOS_FUZZ_REQUIRE(!error.problems().empty());
    for (const Problem& problem : error.problems()) {
      LAOS_FUZZ_REQUIRE(!problem.what.empty());
      for (const std::string* line : {&problem.what, &problem.where, &problem.fix})
        for (const char c : *line)
          LAOS_FUZZ_REQUIRE(static_cast<unsigned char>(c) >= 0x20 && c != '\x7f');
    }
  }
}

}  // namespace laos::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
