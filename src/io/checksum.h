// SHA-256, as lower-case hexadecimal text.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace laos::io {

// A checksum of bytes given piece by piece.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  std::string hex();  // once, at the end

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string sha256(std::string_view text);
// Reads a piece at a time. Throws Error(kIo) as read_text.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace laos::io
