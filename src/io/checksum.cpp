#include "io/checksum.h"

#include <openssl/evp.h>

#include <array>

#include "core/error.h"
#include "io/file.h"

namespace laos::io {

struct Sha256::Context {
  EVP_MD_CTX* digest = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(digest); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  const bool ok = context_->digest != nullptr &&
                  EVP_DigestInit_ex(context_->digest, EVP_sha256(), nullptr) == 1;
  LAOS_ASSERT(ok);
}

Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
  const bool ok = EVP_DigestUpdate(context_->digest, bytes.data(), bytes.size()) == 1;
  LAOS_ASSERT(ok);
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  const bool ok = EVP_DigestFinal_ex(context_->digest, digest.data(), &size) == 1;
  LAOS_ASSERT(ok);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += "0123456789abcdef"[digest[i] >> 4];
    text += "0123456789abcdef"[digest[i] & 15];
  }
  return text;
}

std::string sha256(std::string_view text) {
  Sha256 sum;
  sum.update(std::as_bytes(std::span(text)));
  return sum.hex();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  Sha256 sum;
  read_pieces(path, [&](std::span<const std::byte> piece) { sum.update(piece); });
  return sum.hex();
}

}  // namespace laos::io
