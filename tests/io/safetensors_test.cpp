#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "io/own_file.h"
#include "support/temporary_directory.h"

namespace laos::io {
namespace {

using test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string safetensors(const std::string& header, int64_t data_bytes) {
  return little_endian(header.size()) + header + std::string(static_cast<size_t>(data_bytes), '\1');
}

// What opening one file with these bytes says; "" when it opens.
std::string problem_with_bytes(const std::string& bytes) {
  const TemporaryDirectory dir;
  put(dir / "model.safetensors", bytes);
  try {
    TensorFiles::open(dir.path(), "model");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_THAT(error.what(), HasSubstr("model.safetensors"));
    return error.what();
  }
  return "";
}
std::string problem_with(const std::string& header, int64_t data_bytes) {
  return problem_with_bytes(safetensors(header, data_bytes));
}

std::string entry(const std::string& dtype, const std::string& shape, int64_t begin, int64_t end) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[)" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST(TensorFiles, ReadsNamesShapesAndBytes) {
  const TemporaryDirectory dir;
  const std::string header = R"({"__metadata__":{"format":"pt"},"b":)" +
                             entry("I8", "[2,3]", 4, 10) + R"(,"a":)" + entry("F32", "[]", 0, 4) +
                             R"(,"none":)" + entry("F32", "[0,5]", 10, 10) + "}   ";
  put(dir / "model.safetensors", little_endian(header.size()) + header +
                                     std::string("\0\0\x80\x3f"
                                                 "abcdef",
                                                 10));
  const TensorFiles files = TensorFiles::open(dir.path(), "model");
  EXPECT_EQ(files.tensors().size(), 3u);
  const TensorView& b = files.at("b");
  EXPECT_EQ(b.dtype, DType::kI8);
  EXPECT_EQ(b.shape, (Shape{2, 3}));
  EXPECT_EQ(std::memcmp(b.data, "abcdef", 6), 0);
  float a = 0;
  to_f32(files.at("a"), &a);
  EXPECT_EQ(a, 1.0f);
  EXPECT_EQ(files.at("none").size_bytes(), 0);
  EXPECT_EQ(files.file_of("b"), "model.safetensors");
  EXPECT_EQ(files.find("c"), nullptr);
}

TEST(TensorFiles, NamesTheNearestTensorWhenOneIsAbsent) {
  const TemporaryDirectory dir;
  put(dir / "m.safetensors",
      safetensors(R"({"lm_head.weight":)" + entry("I8", "[1]", 0, 1) + "}", 1));
  const TensorFiles files = TensorFiles::open(dir.path(), "m");
  try {
    files.at("lm_head.weigth");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("lm_head.weight"));
  }
}

TEST(TensorFiles, RefusesBadLengths) {
  EXPECT_THAT(problem_with_bytes(""), HasSubstr("at least 8 bytes"));
  EXPECT_THAT(problem_with_bytes("1234567"), HasSubstr("at least 8 bytes"));
  EXPECT_THAT(problem_with_bytes(little_endian(0)), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(problem_with_bytes(little_endian(3) + "{}"), HasSubstr("truncated"));
  EXPECT_THAT(problem_with_bytes(little_endian(100'000'001) + "{}"),
              HasSubstr("not a safetensors file"));
  EXPECT_THAT(problem_with_bytes(little_endian(~uint64_t{0}) + "{}"),
              HasSubstr("not a safetensors file"));
  EXPECT_EQ(problem_with_bytes(little_endian(2) + "{}"), "");
}

TEST(TensorFiles, SaysExpectedAndRealSizeOfATruncatedFile) {
  const std::string header = R"({"a":)" + entry("F32", "[100]", 0, 400) + "}";
  const std::string expected = std::to_string(8 + header.size() + 400);
  const std::string real = std::to_string(8 + header.size() + 399);
  EXPECT_THAT(problem_with(header, 399), testing::AllOf(HasSubstr("truncated"), HasSubstr(expected),
                                                        HasSubstr(real), HasSubstr(": a")));
  EXPECT_EQ(problem_with(header, 400), "");
}

TEST(TensorFiles, RefusesMalformedHeaders) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{", "malformed"},
      {"{]", "malformed"},
      {"{} x", "malformed"},
      {std::string("{}\0{}", 5), "NUL"},
      {"[]", "does not begin"},
      {R"({"a":1})", "a must be an object"},
      {R"({"a":[]})", "a must be an object"},
      {R"({"a":{}})", "dtype is missing"},
      {R"({"a":{"dtype":3}})", "a.dtype must be a string"},
      {R"({"a":{"dtype":"I8","shape":3}})", "a.shape must be a list"},
      {R"({"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,0]}})", "a.shape must be a list"},
      {R"({"a":{"dtype":"I8","shape":[1.5],"data_offsets":[0,0]}})", "a.shape must be a list"},
      {R"({"a":{"dtype":"I8","shape":[[1]],"data_offsets":[0,0]}})", "a.shape must be a list"},
      {R"({"a":{"dtype":"I8","shape":[1],"data_offsets":{}}})", "a.data_offsets must be a list"},
      {R"({"a":{"dtype":"I8","shape":[1],"shape":[1]}})", "shape stands twice"},
      {R"({"a":{"dtype":"I8","stride":[1]}})", "unknown field"},
      {R"({"a":{"dtype":"I8","shape":[1,1,1,1,1,1,1,1,1]}})", "more than 8"},
      {R"({"__metadata__":{"a":1}})", "object of strings"},
      {R"({"__metadata__":[]})", "object of strings"},
      {R"({"__metadata__":"x"})", "object of strings"},
      {"{\"\xff\":1}", "malformed"},
  };
  for (const auto& [header, message] : cases)
    EXPECT_THAT(problem_with(header, 0), HasSubstr(message)) << header;
}

TEST(TensorFiles, RefusesDeepNestingAndEndlessNames) {
  EXPECT_NE(problem_with(R"({"a":)" + std::string(1'000'000, '['), 0), "");
  EXPECT_THAT(problem_with(R"({")" + std::string(2000, 'x') + R"(":{}})", 0),
              HasSubstr("longer than"));
}

TEST(TensorFiles, RefusesBadEntriesNamingFileAndTensor) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {entry("F8_E4M3", "[4]", 0, 4), "F8_E4M3"},
      {entry("I8", "[5]", 0, 4), "span 4 bytes; I8 [5] needs 5"},
      {entry("I8", "[3]", 0, 4), "needs 3"},
      {entry("I8", "[4]", 4, 0), "not a begin and an end"},
      {R"({"dtype":"I8","shape":[4],"data_offsets":[0]})", "not a begin and an end"},
      {R"({"dtype":"I8","shape":[4],"data_offsets":[0,2,4]})", "not a begin and an end"},
      {R"({"dtype":"I8","shape":[4],"data_offsets":[18446744073709551612,18446744073709551615]})",
       "not a begin and an end"},
      {entry("F64", "[4294967296,4294967296]", 0, 0), "too large"},
      {entry("I8", "[18446744073709551615]", 0, 4), "too large"},
      {entry("F32", "[9223372036854775807]", 0, 4), "too large"},
  };
  for (const auto& [text, message] : cases)
    EXPECT_THAT(problem_with(R"({"bad one":)" + text + "}", 4),
                testing::AllOf(HasSubstr(message), HasSubstr("model.safetensors: bad one")))
        << text;
}

TEST(TensorFiles, RefusesOverlapsAndGaps) {
  const auto two = [](int64_t a0, int64_t a1, int64_t b0, int64_t b1) {
    return R"({"a":)" + entry("I8", "[" + std::to_string(a1 - a0) + "]", a0, a1) + R"(,"b":)" +
           entry("I8", "[" + std::to_string(b1 - b0) + "]", b0, b1) + "}";
  };
  EXPECT_EQ(problem_with(two(4, 8, 0, 4), 8), "");
  EXPECT_THAT(problem_with(two(0, 4, 3, 8), 8), HasSubstr("overlaps a"));
  EXPECT_THAT(problem_with(two(0, 8, 0, 8), 8), HasSubstr("overlaps a"));
  EXPECT_THAT(problem_with(two(0, 4, 5, 8), 8), HasSubstr("bytes 4 to 5"));
  EXPECT_THAT(problem_with(two(1, 4, 4, 8), 8), HasSubstr("bytes 0 to 1"));
  EXPECT_THAT(problem_with(two(0, 4, 4, 8), 9), HasSubstr("last 1 bytes"));
  EXPECT_THAT(problem_with("{}", 1), HasSubstr("last 1 bytes"));
  EXPECT_THAT(problem_with(two(0, 8, 4, 4), 8), HasSubstr("overlaps a"));
}

TEST(TensorFiles, RefusesATensorThatStandsTwiceInAHeader) {
  EXPECT_THAT(
      problem_with(
          R"({"a":)" + entry("I8", "[4]", 0, 4) + R"(,"a":)" + entry("I8", "[4]", 4, 8) + "}", 8),
      HasSubstr("stands twice"));
}

TEST(TensorFiles, SayOnceWhatIsWrongWithThousands) {
  std::string header = "{";
  for (int i = 0; i < 3000; ++i)
    header += (i ? ",\"t" : "\"t") + std::to_string(i) + "\":" + entry("X", "[1]", i, i + 1);
  const std::string message = problem_with(header + "}", 3000);
  EXPECT_THAT(message, HasSubstr("model.safetensors: t0, and 2999 more like it"));
  EXPECT_LT(message.size(), 1000u);
}

TEST(TensorFiles, ShowsNoControlCharactersOfNames) {
  const std::string message =
      problem_with(R"({"evil\u001b[2J\n":)" + entry("X", "[1]", 0, 1) + "}", 1);
  EXPECT_THAT(message, HasSubstr("evil\\x1b[2J\\x0a"));
  EXPECT_THAT(message, Not(HasSubstr("\x1b")));
}

TEST(TensorFiles, NeverCrashesOnDamagedBytes) {
  const std::string good =
      safetensors(R"({"__metadata__":{"f":"pt"},"a":)" + entry("F32", "[2,2]", 0, 16) + R"(,"b":)" +
                      entry("BF16", "[3]", 16, 22) + "}",
                  22);
  const TemporaryDirectory dir;
  int refused = 0;
  for (size_t i = 0; i + 22 < good.size(); ++i)
    for (const char replacement : {'\0', '"', '9', '{', '\xff'}) {
      std::string bad = good;
      bad[i] = replacement;
      put(dir / "m.safetensors", bad);
      try {
        const TensorFiles files = TensorFiles::open(dir.path(), "m");
        for (const auto& [name, view] : files.tensors())
          for (int64_t k = 0; k < view.size_bytes(); ++k) EXPECT_EQ(view.data[k], std::byte{1});
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kFormat);
        ++refused;
      }
    }
  EXPECT_GT(refused, 300);
}

// A directory with shards s1 (a), s2 (b) and an index.
class ShardedFiles : public testing::Test {
 protected:
  ShardedFiles() {
    put(dir_ / "s1.safetensors", safetensors(R"({"a":)" + entry("I8", "[4]", 0, 4) + "}", 4));
    put(dir_ / "s2.safetensors", safetensors(R"({"b":)" + entry("I8", "[2]", 0, 2) + "}", 2));
  }
  void put_index(const std::string& weight_map) {
    put(dir_ / "m.safetensors.index.json",
        R"({"metadata":{"total_size":6,"x":[{}]},"weight_map":)" + weight_map + "}");
  }
  std::string problem(ErrorCode code = ErrorCode::kFormat) {
    try {
      TensorFiles::open(dir_.path(), "m");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "";
  }
  TemporaryDirectory dir_;
};

TEST_F(ShardedFiles, GiveWayToASingleFileThatTheirIndexDoesNotName) {
  put(dir_ / "m.safetensors", safetensors(R"({"c":)" + entry("I8", "[4]", 0, 4) + "}", 4));
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_TRUE(TensorFiles::open(dir_.path(), "m").contains("c"));
  put_index(R"({"a":"s1.safetensors","c":"m.safetensors"})");
  EXPECT_TRUE(TensorFiles::open(dir_.path(), "m").contains("a"));
}

TEST_F(ShardedFiles, WithoutAnIndexAreSaidToLackIt) {
  fs::rename(dir_ / "s1.safetensors", dir_ / "m-00001-of-00002.safetensors");
  EXPECT_THAT(problem(ErrorCode::kIo),
              testing::AllOf(HasSubstr("shards are here (m-00001-of-00002.safetensors)"),
                             HasSubstr("m.safetensors.index.json"), HasSubstr("is missing")));
}

TEST_F(ShardedFiles, MayLackATensorOfTheIndexWhereTheReaderSaysSo) {
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors","lm_head":"s2.safetensors"})");
  EXPECT_THAT(problem(), HasSubstr("not in this shard"));
  EXPECT_EQ(TensorFiles::open(dir_.path(), "m", {"lm_head"}).tensors().size(), 2u);
}

TEST_F(ShardedFiles, SayOnceWhatIsWrongWithManyTensors) {
  std::string map = R"({"a":"s1.safetensors","b":"s2.safetensors")";
  for (int i = 0; i < 50; ++i) map += ",\"x" + std::to_string(i) + "\":\"s2.safetensors\"";
  put_index(map + "}");
  EXPECT_THAT(problem(),
              testing::AllOf(HasSubstr("x0, and 49 more like it"), Not(HasSubstr("x7"))));
}

TEST(TensorFiles, TakeNullForNoMetadata) {
  EXPECT_EQ(problem_with(R"({"__metadata__":null,"a":)" + entry("I8", "[1]", 0, 1) + "}", 1), "");
  EXPECT_THAT(problem_with(R"({"a":null})", 0), HasSubstr("must be an object"));
}

TEST(TensorFiles, KnowAGitLfsPointer) {
  EXPECT_THAT(problem_with_bytes("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
              testing::AllOf(HasSubstr("git-LFS pointer"), HasSubstr("git lfs pull")));
}

TEST(TensorFiles, NameWeightsOfAnotherForm) {
  const TemporaryDirectory dir;
  const auto problem = [&] {
    try {
      TensorFiles::open(dir.path(), "model");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  put(dir / "pytorch_model.bin", "x");
  EXPECT_THAT(problem(), HasSubstr("the weights are in pytorch_model.bin"));
  put(dir / "model.safetensors.incomplete", "x");
  EXPECT_THAT(problem(), HasSubstr("wait until the download is done"));
}

TEST(TensorFiles, AreRenamedWithWhereTheyLie) {
  const TemporaryDirectory dir;
  put(dir / "m.safetensors", safetensors(R"({"x.a":)" + entry("I8", "[1]", 0, 1) + "}", 1));
  TensorFiles files = TensorFiles::open(dir.path(), "m");
  files.rename({{"x.a", "a"}});
  EXPECT_EQ(files.at("a").name, "a");
  EXPECT_EQ(files.file_of("a"), "m.safetensors");
  EXPECT_FALSE(files.contains("x.a"));
}

TEST_F(ShardedFiles, OpensEveryShardOfTheIndex) {
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  const TensorFiles files = TensorFiles::open(dir_.path(), "m");
  EXPECT_EQ(files.tensors().size(), 2u);
  EXPECT_EQ(files.file_of("a"), "s1.safetensors");
  EXPECT_EQ(files.file_of("b"), "s2.safetensors");
}

TEST_F(ShardedFiles, FollowsTheLinksThatDownloadCachesAreMadeOf) {
  fs::create_directories(dir_ / "snapshots/abc");
  fs::create_directories(dir_ / "blobs");
  fs::rename(dir_ / "s1.safetensors", dir_ / "blobs/123");
  fs::create_symlink("../../blobs/123", dir_ / "snapshots/abc/m.safetensors");
  EXPECT_TRUE(TensorFiles::open(dir_ / "snapshots/abc", "m").contains("a"));
  fs::create_directory_symlink(dir_ / "snapshots/abc", dir_ / "link");
  EXPECT_TRUE(TensorFiles::open(dir_ / "link", "m").contains("a"));
}

TEST_F(ShardedFiles, RefusesLinksThatLeadOutOfTheDirectory) {
  fs::create_directories(dir_ / "model");
  for (const char* target : {"../s1.safetensors", "/dev/zero", "nowhere", "m.safetensors"}) {
    fs::create_symlink(target, dir_ / "model/m.safetensors");
    put(dir_ / "model/m.safetensors.index.json", R"({"weight_map":{"a":"m.safetensors"}})");
    try {
      TensorFiles::open(dir_ / "model", "m");
      FAIL() << target;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.what(), HasSubstr("does not lead to a file of the model directory"));
    }
    fs::remove(dir_ / "model/m.safetensors");
  }
}

TEST_F(ShardedFiles, FollowLinksOutOfTheDirectoryWhereTheyAreTrusted) {
  fs::create_directories(dir_ / "model");
  fs::create_symlink("../s1.safetensors", dir_ / "model/m.safetensors");
  follow_links(true);
  EXPECT_TRUE(TensorFiles::open(dir_ / "model", "m").contains("a"));
  follow_links(false);
  try {
    TensorFiles::open(dir_ / "model", "m");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("--follow-links"));
  }
}

TEST_F(ShardedFiles, RefusesPathsThatLeadOutOfTheDirectory) {
  for (const std::string path :
       {"../s1.safetensors", "/etc/passwd", "..", ".", "", "x/s1.safetensors", "a\\\\b"}) {
    put_index(R"({"b":"s2.safetensors","a":")" + path + R"("})");
    EXPECT_THAT(problem(), HasSubstr("is not the name of a file in this directory")) << path;
  }
}

TEST_F(ShardedFiles, NamesEveryMissingShard) {
  put_index(R"({"a":"s1.safetensors","b":"s3.safetensors","c":"s4.safetensors"})");
  const std::string message = problem(ErrorCode::kIo);
  EXPECT_THAT(message, HasSubstr("the index names a shard that is not here"));
  EXPECT_THAT(message, HasSubstr("s3.safetensors"));
  EXPECT_THAT(message, HasSubstr("s4.safetensors"));
}

TEST_F(ShardedFiles, ComparesIndexAndShards) {
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"})");
  EXPECT_THAT(problem(), HasSubstr("not in this shard"));
  put_index(R"({"a":"s2.safetensors","b":"s1.safetensors"})");
  EXPECT_THAT(problem(), HasSubstr("2 problems"));
  put(dir_ / "s2.safetensors", safetensors(R"({"b":)" + entry("I8", "[2]", 0, 2) + R"(,"extra":)" +
                                               entry("I8", "[1]", 2, 3) + "}",
                                           3));
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_THAT(problem(),
              testing::AllOf(HasSubstr("does not name"), HasSubstr("s2.safetensors: extra")));
}

TEST_F(ShardedFiles, RefusesATensorThatIsInTwoShards) {
  put(dir_ / "s2.safetensors",
      safetensors(
          R"({"b":)" + entry("I8", "[2]", 0, 2) + R"(,"a":)" + entry("I8", "[4]", 2, 6) + "}", 6));
  put_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_THAT(problem(), HasSubstr("is also in s1.safetensors"));
  EXPECT_THROW(TensorFiles::open_files({dir_ / "s1.safetensors", dir_ / "s2.safetensors"}), Error);
}

TEST_F(ShardedFiles, RefusesMalformedIndexes) {
  put_index(R"({"a":"s1.safetensors","a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_THAT(problem(), HasSubstr("twice in weight_map"));
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "malformed"},
      {"[]", "not a JSON object"},
      {"3", "not a JSON object"},
      {"{}", "no weight_map"},
      {R"({"weight_map":[]})", "object of strings"},
      {R"({"weight_map":{"a":1}})", "object of strings"},
      {R"({"weight_map":{"a":{}}})", "object of strings"},
      {R"({"weight_map":{},"weight_map":{}})", "twice"},
      {R"({"metadata":)" + std::string(100'000, '['), "nested too deeply"},
  };
  for (const auto& [text, message] : cases) {
    put(dir_ / "m.safetensors.index.json", text);
    EXPECT_THAT(problem(),
                testing::AllOf(HasSubstr(message), HasSubstr("m.safetensors.index.json")))
        << text.substr(0, 60);
  }
}

TEST_F(ShardedFiles, SaysWhatIsExpectedInADirectoryWithoutWeights) {
  EXPECT_THAT(problem(ErrorCode::kIo),
              HasSubstr("neither m.safetensors nor m.safetensors.index.json"));
}

std::vector<std::string> names_of(const ShardPlan::Shard& shard) {
  std::vector<std::string> names;
  for (const TensorSpec& tensor : shard.tensors) names.push_back(tensor.name);
  return names;
}

std::vector<TensorSpec> byte_tensors(const std::vector<std::pair<std::string, int64_t>>& sizes) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, size] : sizes)
    specs.push_back({.name = name, .dtype = DType::kI8, .shape = {size}});
  return specs;
}

TEST(PlanShards, ClosesAShardBeforeATensorThatWouldReachTheLimit) {
  const ShardPlan plan =
      plan_shards(byte_tensors({{"a", 4}, {"b", 5}, {"c", 1}, {"d", 25}, {"e", 1}}), "m", 10);
  ASSERT_EQ(plan.shards.size(), 4u);
  EXPECT_THAT(names_of(plan.shards[0]), ElementsAre("a", "b"));  // 9; with c it would hold 10
  EXPECT_THAT(names_of(plan.shards[1]), ElementsAre("c"));
  EXPECT_THAT(names_of(plan.shards[2]), ElementsAre("d"));  // larger than the limit: alone
  EXPECT_THAT(names_of(plan.shards[3]), ElementsAre("e"));
  EXPECT_EQ(plan.shards[3].file_name, "m-00004-of-00004.safetensors");
  EXPECT_EQ(plan.total_size, 36);
}

TEST(PlanShards, NumbersEvenASingleShardUnlessThereIsNoLimit) {
  const auto specs = byte_tensors({{"a", 4}, {"b", 5}});
  EXPECT_EQ(plan_shards(specs, "m", 100).shards.at(0).file_name, "m-00001-of-00001.safetensors");
  const ShardPlan plan = plan_shards(specs, "m", 0);
  ASSERT_EQ(plan.shards.size(), 1u);
  EXPECT_EQ(plan.shards[0].file_name, "m.safetensors");
}

TEST(PlanShards, RefusesANameThatStandsTwice) {
  EXPECT_THROW(plan_shards(byte_tensors({{"a", 4}, {"a", 5}}), "m", 0), Error);
}

std::string text_of(const fs::path& path) { return read_text(path, 1 << 20); }
std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::vector<TensorSpec> mixed_tensors() {
  return {{.name = "q", .dtype = DType::kI8, .shape = {3, 1}},
          {.name = "scale", .dtype = DType::kF32, .shape = {1}},
          {.name = "norm", .dtype = DType::kBF16, .shape = {1}}};
}

TEST(ShardedWriter, WritesExactlyTheBytesOfTheFormatWithEveryTensorAligned) {
  const TemporaryDirectory dir;
  ShardedWriter writer(dir.path(), plan_shards(mixed_tensors(), "m", 0));
  writer.write("norm", bytes_of("NN"));
  writer.write_part("q", 1, bytes_of("bc"));
  writer.write("scale", bytes_of("SSSS"));
  writer.write_part("q", 0, bytes_of("a"));
  writer.commit();
  std::string header = R"({"scale":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                       R"("norm":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},)"
                       R"("q":{"dtype":"I8","shape":[3,1],"data_offsets":[6,9]}})";
  header.append((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(text_of(dir / "m.safetensors"), little_endian(header.size()) + header + "SSSSNNabc");
  EXPECT_EQ(writer.plan().file_bytes(), static_cast<int64_t>(fs::file_size(dir / "m.safetensors")));
}

TEST(ShardedWriter, WritesWhatTensorFilesReads) {
  const TemporaryDirectory dir;
  const ShardPlan plan = plan_shards(mixed_tensors(), "m", 5);
  ASSERT_EQ(plan.shards.size(), 3u);
  ShardedWriter writer(dir.path(), plan);
  writer.write("q", bytes_of("abc"));
  writer.write("scale", bytes_of("SSSS"));
  writer.write("norm", bytes_of("NN"));
  EXPECT_FALSE(fs::exists(dir / plan.shards[0].file_name));
  writer.commit();
  write_text_atomically(dir / "m.safetensors.index.json", writer.index_json());
  const TensorFiles files = TensorFiles::open(dir.path(), "m");
  EXPECT_EQ(std::memcmp(files.at("q").data, "abc", 3), 0);
  EXPECT_EQ(files.at("scale").dtype, DType::kF32);
  EXPECT_EQ(files.at("norm").shape, Shape{1});
  EXPECT_EQ(files.file_of("norm"), "m-00003-of-00003.safetensors");
}

TEST(ShardedWriter, IndexIsIndentedByTwoInWriteOrder) {
  const TemporaryDirectory dir;
  const ShardedWriter writer(dir.path(), plan_shards(mixed_tensors(), "m", 100));
  EXPECT_EQ(writer.index_json(), R"({
  "metadata": {
    "total_size": 9
  },
  "weight_map": {
    "q": "m-00001-of-00001.safetensors",
    "scale": "m-00001-of-00001.safetensors",
    "norm": "m-00001-of-00001.safetensors"
  }
})");
}

TEST(ShardedWriter, RemovesEverythingWithoutCommit) {
  const TemporaryDirectory dir;
  { ShardedWriter writer(dir.path(), plan_shards(mixed_tensors(), "m", 5)); }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(ShardedWriter, DoesNotCommitATensorThatIsNotWholeAndRefusesWrongSizes) {
  const TemporaryDirectory dir;
  ShardedWriter writer(dir.path(), plan_shards(mixed_tensors(), "m", 0));
  EXPECT_THROW(writer.write("q", bytes_of("ab")), Error);
  EXPECT_THROW(writer.write_part("q", 2, bytes_of("ab")), Error);
  EXPECT_THROW(writer.write("absent", bytes_of("")), Error);
  writer.write("scale", bytes_of("SSSS"));
  writer.write("norm", bytes_of("NN"));
  writer.write_part("q", 0, bytes_of("ab"));
  EXPECT_THROW(writer.commit(), Error);
  EXPECT_FALSE(fs::exists(dir / "m.safetensors"));
}

}  // namespace
}  // namespace laos::io
