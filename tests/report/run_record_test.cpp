#include "report/run_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "report/chart.h"
#include "report/page.h"
#include "support/record.h"

namespace laos::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RunRecord, IsTheSameAfterJsonAndBack) {
  const RunRecord record = test::run_record(3);
  const std::string json = to_json(record);
  const RunRecord back = run_record_from_json(json, "run.json");
  EXPECT_EQ(to_json(back), json);
  EXPECT_EQ(back.layers.size(), 3u);
  EXPECT_EQ(back.layers[1].training[0].losses.size(), record.layers[1].training[0].losses.size());
  EXPECT_NEAR(back.health->figures.layers[2].before[3].kurtosis,
              record.health->figures.layers[2].before[3].kurtosis, 1e-4);
  EXPECT_EQ(back.recipe.text, record.recipe.text);
  ASSERT_EQ(back.ranks.size(), 2u);
  EXPECT_EQ(back.ranks[1].host, "node1");
  EXPECT_EQ(back.ranks[1].received_bytes, record.ranks[1].received_bytes);
  EXPECT_EQ(to_json(layer_from_json(to_json(record.layers[0]), "layer")),
            to_json(record.layers[0]));
}

TEST(RunRecord, WritesWhatIsNotFiniteAsNullAndReadsItAsNaN) {
  RunRecord record = test::run_record(1);
  record.health->figures.kl_mean = std::nan("");
  record.layers[0].linears[0].weight_error = INFINITY;
  const std::string json = to_json(record);
  EXPECT_TRUE(nlohmann::json::parse(json)["health"]["kl_mean"].is_null());
  const RunRecord back = run_record_from_json(json, "run.json");
  EXPECT_TRUE(std::isnan(back.health->figures.kl_mean));
  EXPECT_TRUE(std::isnan(back.layers[0].linears[0].weight_error));
}

TEST(RunRecord, WithoutHealthStaysWithout) {
  RunRecord record = test::run_record(1);
  record.health.reset();
  EXPECT_FALSE(run_record_from_json(to_json(record), "run.json").health.has_value());
}

TEST(RunRecord, ReadsRecordsWithUnknownAndMissingKeys) {
  const RunRecord record =
      run_record_from_json(R"({"format": 1, "later": {"a": [1]}})", "run.json");
  EXPECT_TRUE(record.layers.empty());
  EXPECT_NO_THROW(to_html(record));
}

TEST(RunRecord, RefusesWhatIsNoRecordNamingThePlace) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      run_record_from_json(text, "run.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message("{"), HasSubstr("not JSON"));
  EXPECT_THAT(message("[]"), HasSubstr("not an object"));
  EXPECT_THAT(message(R"({"format": 2})"), HasSubstr("format 2"));
  EXPECT_THAT(message(R"({"layers": [{"seconds": "long"}]})"), HasSubstr("layers[0].seconds"));
  EXPECT_THAT(message(R"({"health": {"layers": [{"before": []}]}})"),
              HasSubstr("health.layers[0].before"));
  EXPECT_THAT(message(R"({"peak_rss_bytes": 1.5})"), HasSubstr("whole number"));
}

TEST(Page, ShowsRanksWhereThereAreSeveral) {
  RunRecord record = test::run_record(2);
  EXPECT_THAT(to_html(record), HasSubstr("<h2>Ranks"));
  EXPECT_THAT(to_html(record), HasSubstr("node1"));
  record.ranks.clear();
  EXPECT_THAT(to_html(record), Not(HasSubstr("<h2>Ranks")));
}

TEST(Page, DrawsRunsBesideEachOtherThatWereCheckedOnTheSameText) {
  RunRecord record = test::run_record(2), cheap = test::run_record(2);
  cheap.recipe.config_id = "cheap";
  cheap.recipe.flops = 1e14;
  cheap.health->figures.kl_mean = 0.06;
  // The same text under another path, and another text under the same one.
  cheap.health->source = "/mnt/copy/calib.jsonl";
  RunRecord elsewhere = cheap, old = cheap, unchecked = cheap;
  elsewhere.recipe.config_id = "elsewhere";
  elsewhere.health->source = record.health->source;
  elsewhere.health->tokens_sha256 = "07e4";
  old.recipe.config_id = "old";
  old.recipe.flops = 0;  // of a version that did not record it
  unchecked.recipe.config_id = "unchecked";
  unchecked.health.reset();
  EXPECT_THAT(to_html(record), Not(HasSubstr("<h2>Beside")));
  const std::string html = to_html(record, {cheap, elsewhere, old, unchecked});
  EXPECT_THAT(html, HasSubstr("<h2>Beside"));
  EXPECT_THAT(html, HasSubstr("<title>cheap: 100, 0.06</title>"));
  EXPECT_THAT(html, HasSubstr("<title>laos-qwen3-32b-w4a4: 3000, 0.041</title>"));
  for (const char* name : {"elsewhere", "old", "unchecked"}) {
    EXPECT_THAT(html, HasSubstr(std::string("<td>") + name));
    EXPECT_THAT(html, Not(HasSubstr(std::string("<title>") + name)));
  }
  EXPECT_THAT(html, HasSubstr("calib.jsonl: another text, so not drawn"));
  EXPECT_EQ(html.find("NaN"), std::string::npos);
  // One that can be compared is no comparison.
  EXPECT_THAT(to_html(record, {elsewhere}), Not(HasSubstr("Divergence against work")));
}

TEST(Page, DrawsRunsThatAgreeInCostAndDivergence) {
  const RunRecord record = test::run_record(1);
  const std::string html = to_html(record, {record, record});
  EXPECT_THAT(html, HasSubstr("Divergence against work"));
  EXPECT_EQ(html.find("nan"), std::string::npos);
}

TEST(Page, EscapesAllTextOfTheRecord) {
  const std::string evil = "</style></script><script>alert(1)</script>\"'&<img src=x onerror=y>";
  RunRecord record = test::run_record(2);
  record.laos_version = record.recipe.config_id = record.recipe.path = record.recipe.text =
      record.ranks[0].host = record.recipe.dataset = record.model.directory = record.model.type =
          record.model.dtype = record.environment.cpu = record.environment.system =
              record.environment.instruction_set = record.health->source = evil;
  record.warnings = record.libraries = {evil};
  for (Layer& layer : record.layers)
    for (Linear& linear : layer.linears) linear.name = linear.label = linear.decided_by = evil;
  record.health->figures.not_finite = {evil};
  record.health->figures.continuations = {{evil, evil, evil}};
  const std::string html = to_html(record, {record});
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, Not(HasSubstr("</script")));
  EXPECT_EQ(html.find("</style>"), html.rfind("</style>"));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;&lt;img"));
}

TEST(Page, NeedsNothingFromANetworkAndHasNoScript) {
  const std::string html = to_html(test::run_record(4));
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  for (const char* reference : {"http:", "https:", "src=", "@import", "url(", "<script", "onload"})
    EXPECT_THAT(html, Not(HasSubstr(reference)));
}

TEST(Page, SaysWhereAGoodVerdictIsOfTextThatWasCalibratedOn) {
  RunRecord record = test::run_record(4);
  record.health->figures = {};
  record.health->figures.top1_agreement = 1;
  for (const bool calibrated : {true, false}) {
    record.health->calibrated = calibrated;
    const std::string flattered = "good, on text that it was calibrated on";
    EXPECT_EQ(verdict_text(*record.health), calibrated ? flattered : "good");
    EXPECT_THAT(to_html(record), HasSubstr("health: " + verdict_text(*record.health) + "<"));
  }
  record.health->calibrated = true;
  record.health->figures.kl_mean = 10;
  EXPECT_EQ(verdict_text(*record.health), "broken");
}

TEST(Page, NamesTheWorstLayerAndTheVerdictFirst) {
  RunRecord record = test::run_record(12);
  record.health->figures.layers[7].error = 3.5;
  const std::string html = to_html(record);
  EXPECT_THAT(html, HasSubstr("health: broken"));
  EXPECT_LT(html.find("health: broken"), html.find("model.layers.7"));
  const size_t table = html.find("Worst layers");
  EXPECT_EQ(html.find("<td class=\"n\">", table), html.find("<td class=\"n\">7</td>", table));
}

TEST(Page, OfA64LayerModelStaysSmallEnoughToOpenAtOnce) {
  // 64 layers of 400 iterations; a browser lays out a megabyte of static markup in far less than a
  // second (House.ReportOpensInChromium opens it).
  EXPECT_LT(to_html(test::run_record(64, 400)).size(), size_t{1} << 20);
}

TEST(Page, DrawsWithoutHealthLayersAndWithNaN) {
  RunRecord record = test::run_record(2);
  record.health->figures.layers[1].drift = std::nan("");
  record.health->figures.kl_mean = std::nan("");
  record.layers[0].linears[3].weight_error = std::nan("");
  const std::string html = to_html(record);
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("inf\"")));
  record.layers.clear();
  record.fits.clear();
  record.health.reset();
  EXPECT_THAT(to_html(record), HasSubstr("not checked"));
}

TEST(Chart, PutsTheHighestBarBelowTheTopTickAndStartsAtZero) {
  const std::string svg = to_figure(Chart{.title = "t", .series = {{"s", "s1", {1, 7.3, 2}}}});
  EXPECT_THAT(svg, HasSubstr(">8</text>"));
  EXPECT_THAT(svg, HasSubstr(">0</text>"));
  EXPECT_THAT(svg, HasSubstr("7.3</title>"));
}

TEST(Chart, OnALogScaleCoversAllPositiveValuesAndDrawsNoOthers) {
  const std::string svg = to_figure(Chart{
      .title = "t", .series = {{"s", "s1", {0.02, 0, 300, std::nan("")}}}, .log_scale = true});
  EXPECT_THAT(svg, HasSubstr(">0.01</text>"));
  EXPECT_THAT(svg, HasSubstr(">1000</text>"));
  size_t bars = 0;
  for (size_t at = svg.find("<rect"); at != std::string::npos; at = svg.find("<rect", at + 1))
    ++bars;
  EXPECT_EQ(bars, 2u);
}

TEST(Chart, WithoutValuesIsEmptyButWhole) {
  EXPECT_THAT(to_figure(Chart{.title = "t", .series = {{"s", "s1", {}}}}), HasSubstr("</svg>"));
  EXPECT_THAT(
      to_figure(Chart{
          .title = "t", .kind = Chart::Kind::kLines, .series = {{"s", "s1", {std::nan("")}}}}),
      HasSubstr("</svg>"));
  EXPECT_THAT(sparkline({}), HasSubstr("</svg>"));
}

}  // namespace
}  // namespace laos::report
