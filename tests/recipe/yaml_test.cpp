#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "recipe/yaml_document.h"
#include "recipe/yaml_scalar.h"

namespace laos::recipe {
namespace {

using testing::HasSubstr;

// ----------------------------------------------------------------------------------------- scalars

struct ScalarCase {
  const char* text;
  ScalarKind kind;
  double value = 0;
};

TEST(YamlScalar, MeansWhatYaml11Says) {
  for (const ScalarCase& c : {ScalarCase{"yes", ScalarKind::kBool, 1},
                              {"On", ScalarKind::kBool, 1},
                              {"True", ScalarKind::kBool, 1},
                              {"no", ScalarKind::kBool, 0},
                              {"OFF", ScalarKind::kBool, 0},
                              {"y", ScalarKind::kText},
                              {"tRue", ScalarKind::kText},
                              {"", ScalarKind::kNull},
                              {"~", ScalarKind::kNull},
                              {"Null", ScalarKind::kNull},
                              {"20", ScalarKind::kInt, 20},
                              {"-1", ScalarKind::kInt, -1},
                              {"+5", ScalarKind::kInt, 5},
                              {"010", ScalarKind::kInt, 8},
                              {"08", ScalarKind::kText},
                              {"0x1F", ScalarKind::kInt, 31},
                              {"0b101", ScalarKind::kInt, 5},
                              {"1_000", ScalarKind::kInt, 1000},
                              {"1:30", ScalarKind::kInt, 90},
                              {"1:30.5", ScalarKind::kFloat, 90.5},
                              {"1:60", ScalarKind::kText},
                              {"_1", ScalarKind::kText},
                              {"1.5", ScalarKind::kFloat, 1.5},
                              {"1.", ScalarKind::kFloat, 1},
                              {".5", ScalarKind::kFloat, 0.5},
                              {"-.5", ScalarKind::kText},
                              {"1.0e-5", ScalarKind::kFloat, 1e-5},
                              {"1e-5", ScalarKind::kText},
                              {"1.0e5", ScalarKind::kText},
                              {"-.inf", ScalarKind::kFloat, -INFINITY},
                              {"9223372036854775808", ScalarKind::kFloat, 0x1.fffffffffffffp1023},
                              {"W4A4", ScalarKind::kText},
                              {"2024-01-01", ScalarKind::kText}}) {
    const Scalar scalar = resolve_plain_scalar(c.text);
    EXPECT_EQ(scalar.kind, c.kind) << c.text;
    if (c.kind == ScalarKind::kBool) {
      EXPECT_EQ(scalar.bool_value, c.value != 0) << c.text;
    }
    if (c.kind == ScalarKind::kInt) {
      EXPECT_EQ(scalar.int_value, c.value) << c.text;
    }
    if (c.kind == ScalarKind::kFloat) {
      EXPECT_EQ(scalar.float_value, c.value) << c.text;
    }
  }
  EXPECT_TRUE(std::isnan(resolve_plain_scalar(".NaN").float_value));
}

TEST(YamlScalar, ReadsNumbersAndTruthValuesFromText) {
  EXPECT_EQ(number_from_text("1e-5"), 1e-5);
  EXPECT_EQ(number_from_text(" +2.5 "), 2.5);
  EXPECT_EQ(number_from_text("2.5x"), std::nullopt);
  EXPECT_EQ(number_from_text(""), std::nullopt);
  EXPECT_EQ(integer_from_text("20.0"), 20);
  EXPECT_EQ(integer_from_text("20.5"), std::nullopt);
  EXPECT_EQ(integer_from_text("1e3"), std::nullopt);
  EXPECT_EQ(bool_from_text("YES"), true);
  EXPECT_EQ(bool_from_text("f"), false);
  EXPECT_EQ(bool_from_text("maybe"), std::nullopt);
}

// --------------------------------------------------------------------------------------- documents

DocumentNode parse(const std::string& text) {
  std::vector<Problem> duplicates;
  DocumentNode root = parse_document(text, "r.yaml", duplicates);
  EXPECT_TRUE(duplicates.empty());
  return root;
}

Problem refusal(const std::string& text) {
  std::vector<Problem> duplicates;
  try {
    parse_document(text, "r.yaml", duplicates);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRecipe);
    return error.problems().front();
  }
  ADD_FAILURE() << "accepted: " << text.substr(0, 100);
  return {};
}

std::vector<Problem> duplicates_in(const std::string& text) {
  std::vector<Problem> duplicates;
  parse_document(text, "r.yaml", duplicates);
  return duplicates;
}

TEST(YamlDocument, RemembersLinesColumnsAndQuotes) {
  const DocumentNode root = parse("a: 1\nb:\n  - \"1\"\n");
  const DocumentNode& item = root.find("b")->items[0];
  EXPECT_EQ(item.line, 3);
  EXPECT_EQ(item.column, 5);
  EXPECT_FALSE(item.plain);
  EXPECT_EQ(item.scalar.kind, ScalarKind::kText);
  EXPECT_EQ(root.find("a")->scalar.kind, ScalarKind::kInt);
}

TEST(YamlDocument, ExpandsAliasesAndKeepsTheAnchorsPlace) {
  const DocumentNode root = parse("base: &base {x: 1}\nuse: [*base, *base]\n");
  const DocumentNode& second = root.find("use")->items[1];
  EXPECT_EQ(second.find("x")->scalar.int_value, 1);
  EXPECT_EQ(second.line, 1);
}

TEST(YamlDocument, MergesKeysInFrontOfOwnOnes) {
  const DocumentNode root = parse("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n");
  EXPECT_EQ(emit_document(*root.find("c")), "x: 1\ny: 2\nz: 3\n");
  EXPECT_EQ(emit_document(parse("\"<<\": 1\n")), "\"<<\": 1\n");  // quoted: a key like any other
}

TEST(YamlDocument, ReportsEveryDuplicateKeyWithItsLine) {
  const auto duplicates = duplicates_in("a: 1\nb:\n  - {c: 1, c: 2}\na: 2\n");
  ASSERT_EQ(duplicates.size(), 2u);
  EXPECT_EQ(duplicates[0].where, "r.yaml:3:12 b[0].c");
  EXPECT_EQ(duplicates[0].what, "duplicate key `c`, first given on line 3");
  EXPECT_EQ(duplicates[1].where, "r.yaml:4:1 a");
}

TEST(YamlDocument, CountsAKeyThatOverridesAMergedOneAsDuplicate) {
  const auto duplicates = duplicates_in("a: &a\n  x: 1\nb:\n  <<: *a\n  x: 2\n");
  ASSERT_EQ(duplicates.size(), 1u);
  EXPECT_EQ(duplicates[0].where, "r.yaml:5:3 b.x");
  EXPECT_EQ(duplicates[0].what, "duplicate key `x`: `<<` already merges it from line 2");
}

TEST(YamlDocument, WritesWhatItReadsBackToTheSame) {
  const std::string text =
      "a: yes\nb: \"yes\"\nc: 'it''s'\nd: |\n  two\n  lines\ne: []\nf: {}\ng:\nh: [1, [2, {k: v, "
      "l: [w]}], []]\n"
      "\"q: k\": !!str 5\ni: \"\\t\\x01\\u00e9\"\n";
  const DocumentNode root = parse(text);
  const std::string once = emit_document(root);
  EXPECT_EQ(emit_document(parse(once)), once);
  const DocumentNode again = parse(once);
  ASSERT_EQ(again.items.size(), root.items.size());
  for (size_t i = 0; i < root.items.size(); ++i) {
    EXPECT_EQ(again.keys[i].text, root.keys[i].text);
    EXPECT_EQ(again.items[i].kind, root.items[i].kind);
    EXPECT_EQ(again.items[i].scalar.kind, root.items[i].scalar.kind) << root.keys[i].text;
    if (!root.items[i].is_null()) {
      EXPECT_EQ(again.items[i].text, root.items[i].text);
    }
  }
  EXPECT_THAT(once, HasSubstr("h:\n  - 1\n  - - 2\n    - k: v\n      l:\n        - w\n  - []\n"));
}

TEST(YamlDocument, NamesThePlaceOfASyntaxError) {
  const Problem problem = refusal("a: 1\nb: [1, 2\nc: 3\n");
  EXPECT_THAT(problem.what, HasSubstr("not valid YAML"));
  EXPECT_THAT(problem.where, testing::StartsWith("r.yaml:"));
  EXPECT_EQ(refusal("a: *nowhere\n").where, "r.yaml:1:4");
}

TEST(YamlDocument, RefusesWhatIsNotOneUtf8Document) {
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n").what, "the file holds more than one YAML document");
  EXPECT_EQ(refusal("a: \xE9\n").where, "r.yaml:1:4");
  EXPECT_THAT(refusal(std::string("a: 1\nb: \x04\n")).where, "r.yaml:2:4");
  EXPECT_THAT(refusal(std::string("a: \0\n", 5)).what, HasSubstr("control character"));
  EXPECT_THAT(refusal("a: !foo x\n").what, HasSubstr("unknown tag"));
  EXPECT_THAT(refusal("a: !!int x\n").what, HasSubstr("!!int"));
  EXPECT_THAT(refusal("[a]: x\n").what, HasSubstr("used as a key"));
  EXPECT_THAT(refusal("a: {<<: 5}\n").what, HasSubstr("`<<`"));
}

TEST(YamlDocument, RefusesNestingBeforeItEndsTheStack) {
  for (const std::string& text : {std::string(100'000, '['), std::string(100'000, '{'), [] {
                                    std::string dashes;
                                    for (int i = 0; i < 100'000; ++i) dashes += "- ";
                                    return dashes;
                                  }()}) {
    EXPECT_THAT(refusal(text).what, HasSubstr("levels deep"));
  }
}

TEST(YamlDocument, RefusesAliasesThatExplode) {
  std::string laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string inner = "*a" + std::to_string(i - 1);
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int k = 0; k < 9; ++k) laughs += inner + ", ";
    laughs += "]\n";
  }
  EXPECT_THAT(refusal(laughs).what, HasSubstr("aliases are expanded"));

  std::string big = "a: &a \"" + std::string(500'000, 'x') + "\"\nb: [";
  for (int i = 0; i < 90'000; ++i) big += "*a,";
  EXPECT_THAT(refusal(big + "]\n").what, HasSubstr("aliases are expanded"));

  std::string deep = "a0: &a0 " + std::string(30, '[') + std::string(30, ']') + "\n";
  for (int i = 1; i < 9; ++i) {
    deep += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " " + std::string(30, '[') +
            "*a" + std::to_string(i - 1) + std::string(30, ']') + "\n";
  }
  EXPECT_THAT(refusal(deep).what, HasSubstr("levels deep"));
}

TEST(YamlDocument, RefusesAnchorsInsideThemselves) {
  EXPECT_EQ(refusal("a: &a [*a]\n").where, "r.yaml:1:8 a[0]");
  EXPECT_THAT(refusal("a: &a {b: *a}\n").what, HasSubstr("inside its own anchor"));
  EXPECT_THAT(refusal("a: &a\n  <<: *a\n").what, HasSubstr("inside its own anchor"));
}

TEST(YamlDocument, RefusesFilesAndCountsOfValuesThatAreTooLarge) {
  EXPECT_THAT(refusal(std::string(kMaxYamlBytes + 1, ' ')).what, HasSubstr("bytes"));
  std::string many = "[";
  for (size_t i = 0; i < kMaxYamlNodes + 10; ++i) many += "a,";
  EXPECT_THAT(refusal(many + "]").what, HasSubstr("100000 values"));
}

TEST(Printable, EscapesAndCuts) {
  EXPECT_EQ(printable("a\x1B[31m"), "a?[31m");
  EXPECT_EQ(printable("\xFF"), "?");
  EXPECT_EQ(printable(std::string(81, 'x')), std::string(80, 'x') + "...");
}

}  // namespace
}  // namespace laos::recipe
