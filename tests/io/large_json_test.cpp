#include "io/large_json.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <string>

namespace {
thread_local int64_t num_allocations = 0;
}  // namespace

// Sanitizers have their own; clang does not say which is on.
#if defined(__SANITIZE_ADDRESS__) || defined(__clang__)
constexpr bool kCounts = false;
#else
constexpr bool kCounts = true;
// For this whole program. Not inlined: compilers warn of `free` for what `new` gave.
[[gnu::noinline]] void* operator new(size_t size) {
  ++num_allocations;
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace laos::io {
namespace {

template <class Json>
Json nested() {
  Json json = Json::object();
  for (int i = 0; i < 300; ++i)
    json["key " + std::to_string(i)] = {{"pair", {std::to_string(i), "a text that is not short"}},
                                        {"lists", {{1, 2}, {3, {{"deep", nullptr}}}}}};
  return json;
}

template <class T>
int64_t allocations_at_end_of(std::unique_ptr<T> owned) {
  const int64_t before = num_allocations;
  owned.reset();
  return num_allocations - before;
}
template <class Json>
std::unique_ptr<LargeJson<Json>> large() {
  return std::unique_ptr<LargeJson<Json>>(new LargeJson<Json>{nested<Json>()});
}

TEST(LargeJson, EndsWithoutTakingMemory) {
  if (!kCounts) GTEST_SKIP() << "allocations are not counted";
  using nlohmann::json, nlohmann::ordered_json;
  EXPECT_GT(allocations_at_end_of(std::make_unique<json>(nested<json>())), 0)
      << "then this class has no use";
  EXPECT_EQ(allocations_at_end_of(large<json>()), 0);
  EXPECT_EQ(allocations_at_end_of(large<ordered_json>()), 0);
}

TEST(LargeJson, HoldsAnyKindOfValue) {
  for (const auto& value : {nlohmann::json(), nlohmann::json(1.5), nlohmann::json("text"),
                            nlohmann::json::array(), nlohmann::json::object()})
    EXPECT_EQ(LargeJson<nlohmann::json>{value}.value, value);
}

}  // namespace
}  // namespace laos::io
