#include "report/page.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/units.h"
#include "model/checkpoint.h"
#include "report/chart.h"
#include "report/format.h"
#include "scheme/schemes.h"

namespace laos::report {
namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; --bg: #fff; --text: #1b1f24; --dim: #5c6670; --line: #dfe3e8; --card: #f5f7f9;
  --s1: #2a6fdb; --s2: #e07b00; --s3: #6a8f2f; --s4: #a34fb5; --good: #1a7f37; --degraded: #a15c00; --broken: #c1272d;
  --q4: #2a6fdb; --q8: #9cc2f5; --q48: #5b97e8; --fp: #c9ced6; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --text: #e4e8ec; --dim: #9aa4ae; --line: #30363d;
  --card: #1d2226; --s1: #6aa5ff; --s2: #ffab4a; --s3: #a5cc62; --s4: #d690e6; --good: #4cc36b; --degraded: #f0a93b;
  --broken: #ff6f6b; --q4: #6aa5ff; --q8: #31578c; --q48: #4a7dc4; --fp: #4b535c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  "Noto Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 34px 0 6px; padding-top: 10px; border-top: 1px solid var(--line); }
p { margin: 6px 0 10px; max-width: 75ch; } .dim { color: var(--dim); overflow-wrap: anywhere; }
.verdict { border-left: 6px solid var(--c); background: var(--card); padding: 10px 14px; margin: 16px 0; border-radius: 4px; }
.verdict b { color: var(--c); font-size: 1.1rem; } .verdict ul { margin: 4px 0 0; padding-left: 20px; }
.good { --c: var(--good); } .degraded { --c: var(--degraded); } .broken { --c: var(--broken); } .none { --c: var(--dim); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px; margin: 14px 0; }
.cards div { background: var(--card); border-radius: 6px; padding: 8px 12px; }
.cards b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; } .cards span { color: var(--dim); font-size: .84rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 18px 26px; margin: 10px 0; }
.plots > :only-child { max-width: 512px; }
figure { margin: 0; min-width: 0; break-inside: avoid; } figcaption { font-size: .9rem; } figcaption span { color: var(--dim); }
svg { display: block; width: 100%; height: auto; overflow: visible; } svg text { font-size: 10px; fill: var(--dim); font-variant-numeric: tabular-nums; }
svg .name { font-size: 10.5px; } .mid { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--line); stroke-width: 1; } .mark { stroke: var(--dim); stroke-dasharray: 3 3; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.s1 { fill: var(--s1); background: var(--s1); stroke: none; } .s2 { fill: var(--s2); background: var(--s2); }
.s3 { fill: var(--s3); background: var(--s3); } .s4 { fill: var(--s4); background: var(--s4); }
.line.s1 { fill: none; background: none; stroke: var(--s1); } .line.s2 { fill: none; background: none; stroke: var(--s2); }
.line.s3 { fill: none; background: none; stroke: var(--s3); } .line.s4 { fill: none; background: none; stroke: var(--s4); }
.q4 { fill: var(--q4); background: var(--q4); } .q8 { fill: var(--q8); background: var(--q8); }
.q48 { fill: var(--q48); background: var(--q48); } .fp { fill: var(--fp); background: var(--fp); }
.legend { margin: 2px 0; font-size: .84rem; color: var(--dim); } .legend span { margin-right: 14px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.scroll { overflow-x: auto; margin: 8px 0; } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 14px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; }
td .spark { width: 120px; height: 24px; } details { margin: 8px 0; } summary { cursor: pointer; color: var(--dim); font-size: .9rem; }
pre { background: var(--card); padding: 12px; border-radius: 6px; overflow-x: auto; font-size: .82rem; line-height: 1.4; }
blockquote { margin: 8px 0; padding: 8px 14px; background: var(--card); border-radius: 6px; overflow-wrap: anywhere; white-space: pre-wrap; font-size: .9rem; }
blockquote b { font-weight: 600; color: var(--dim); } footer { margin-top: 36px; color: var(--dim); font-size: .84rem; }
@media print { :root { color-scheme: light; --bg: #fff; --text: #000; --dim: #444; --line: #ccc; --card: #f3f3f3; --s1: #2a6fdb;
  --s2: #e07b00; --s3: #6a8f2f; --s4: #a34fb5; --good: #1a7f37; --degraded: #a15c00; --broken: #c1272d; --q4: #2a6fdb;
  --q8: #9cc2f5; --q48: #5b97e8; --fp: #c9ced6; } main { max-width: none; padding: 0; } .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; } details::details-content { content-visibility: visible; display: block; block-size: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
)css";

std::string percent(double share) {
  return std::isnan(share) ? "–" : format(share < 0.0995 ? "%.2f %%" : "%.1f %%", 100 * share);
}

struct Column {
  std::string name;
  bool is_number = true;
};

// Cells are HTML.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void row(const std::vector<std::string>& cells) {
    rows_ += "<tr>";
    for (size_t i = 0; i < cells.size(); ++i)
      rows_ += (columns_[i].is_number ? "<td class=\"n\">" : "<td>") + cells[i] + "</td>";
    rows_ += "</tr>\n";
  }
  std::string html() const {
    std::string head;
    for (const Column& column : columns_)
      head += (column.is_number ? "<th class=\"n\">" : "<th>") + escaped(column.name) + "</th>";
    return "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead><tbody>\n" + rows_ +
           "</tbody></table></div>\n";
  }
  std::string folded(const std::string& summary) const {
    return "<details><summary>" + escaped(summary) + "</summary>" + html() + "</details>\n";
  }

 private:
  std::vector<Column> columns_;
  std::string rows_;
};

std::string paragraph(const std::string& text) { return "<p>" + escaped(text) + "</p>\n"; }
std::string heading(const std::string& text) { return "<h2>" + escaped(text) + "</h2>\n"; }
std::string plots(const std::string& figures) {
  return "<div class=\"plots\">" + figures + "</div>\n";
}

const char* style_of(const std::string& label) {
  const scheme::Scheme* scheme = scheme::find(label);
  if (scheme == nullptr || scheme->is_float()) return "fp";
  if (scheme->weight_bits == 8) return "q8";
  return scheme->act_bits == 4 ? "q4" : "q48";
}

// "mlp.up_proj" of "model.layers.3.mlp.up_proj".
std::string module_of(const std::string& name) {
  const size_t layers = name.find("layers.");
  const size_t dot = layers == std::string::npos ? layers : name.find('.', layers + 7);
  return dot == std::string::npos ? name : name.substr(dot + 1);
}
std::string short_module(const std::string& name) {
  const std::string module = module_of(name);
  const size_t dot = module.rfind('.');
  const std::string last = dot == std::string::npos ? module : module.substr(dot + 1);
  const size_t tail = last.rfind("_proj");
  const bool is_expert = module.find(".experts.") != std::string::npos,
             is_shared = module.find(".shared_expert.") != std::string::npos;
  return (is_expert   ? "expert "
          : is_shared ? "shared "
                      : "") +
         (tail == std::string::npos ? last : last.substr(0, tail));
}

// A layer's linears, those of its experts that are of one kind and one label as one: the weights
// of all, and means of what rounding did to them.
std::vector<Linear> with_experts_as_one(const std::vector<Linear>& linears) {
  std::vector<Linear> result;
  std::map<std::pair<std::string, std::string>, std::pair<size_t, double>> places;  // and how many
  for (const Linear& linear : linears) {
    const size_t at = linear.name.find(".experts.");
    if (at == std::string::npos) {
      result.push_back(linear);
      continue;
    }
    const auto [found, is_new] =
        places.try_emplace({short_module(linear.name), linear.label}, result.size(), 1.0);
    auto& [place, count] = found->second;
    if (is_new) {
      result.push_back(linear);
      result.back().name =
          linear.name.substr(0, at) + ".experts.*" + linear.name.substr(linear.name.rfind('.'));
      continue;
    }
    Linear& all = result[place];
    all.parameters += linear.parameters;
    all.weight_error += linear.weight_error;
    all.clipped += linear.clipped;
    all.range += linear.range;
    ++count;
  }
  for (const auto& [key, where] : places)
    for (double* mean : {&result[where.first].weight_error, &result[where.first].clipped,
                         &result[where.first].range})
      *mean /= where.second;
  return result;
}

constexpr const char* kGroupNames[] = {"q, k, v", "o", "gate, up", "down"};
constexpr const char* kGroupStyles[] = {"s1", "s2", "s3", "s4"};

class Page {
 public:
  Page(const RunRecord& record, const std::vector<RunRecord>& others)
      : r_(record), others_(others) {
    if (r_.health) judgement_ = eval::judge(r_.health->figures);
    for (const Layer& layer : r_.layers)
      for (const Linear& linear : layer.linears) {
        const auto size = static_cast<double>(linear.parameters);
        parameters_ += size;
        bits_ += size * static_cast<double>(linear.weight_bits);
        if (linear.weight_bits == 4 && linear.act_bits == 4) w4a4_ += size;
      }
  }

  std::string html() {
    const std::string title =
        (r_.model.type.empty() ? "model" : r_.model.type) + " · " + r_.recipe.config_id;
    std::string page =
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'unsafe-inline'; img-src data:\">\n"
        "<link rel=\"icon\" href=\"data:,\">\n<title>" +
        escaped(title) + "</title>\n<style>" + kStyle + "</style></head>\n<body><main>\n";
    page += header() + health() + beside() + layers_apart() + bits() + experts() + cache() +
            training() + outliers() + weights() + time_and_memory() + ranks() + recipe() +
            environment();
    page += "<footer>laos " + escaped(r_.laos_version) +
            ". The figures of this page stand in <code>run.json</code> beside it; <code>laos "
            "report DIR</code> makes it again.</footer>\n</main></body></html>\n";
    return page;
  }

 private:
  std::string header() const {
    std::string html = "<h1>" + escaped(r_.model.type.empty() ? "Model" : r_.model.type) +
                       "</h1>\n<p class=\"dim\">" + escaped(r_.recipe.config_id) + " · " +
                       escaped(r_.model.directory) + "</p>\n";
    std::string verdict = "not checked", reasons;
    const char* style = "none";
    if (r_.health) {
      verdict = verdict_text(*r_.health);
      style = eval::name_of(judgement_.verdict);
      for (const std::string& reason : judgement_.reasons)
        reasons += "<li>" + escaped(reason) + "</li>";
      if (reasons.empty())
        reasons =
            "<li>all values are finite, no layer stands out, and the next-token "
            "distribution is close to the float model's</li>";
    } else {
      reasons = "<li>the run was told not to check; <code>laos check</code> does</li>";
    }
    html += "<div class=\"verdict " + std::string(style) + "\"><b>health: " + verdict + "</b><ul>" +
            reasons + "</ul></div>\n<div class=\"cards\">";
    const auto card = [&](const std::string& value, const std::string& name) {
      html += "<div><b>" + value + "</b><span>" + escaped(name) + "</span></div>";
    };
    if (r_.health) {
      card(short_number(r_.health->figures.kl_mean), "KL from float, nats per token");
      card(percent(r_.health->figures.top1_agreement), "top-1 agreement");
    }
    if (parameters_ > 0) {
      card(format("%.2f", bits_ / parameters_), "bits per linear weight");
      card(percent(w4a4_ / parameters_), "of linear weights W4A4");
    }
    card(bytes_text(r_.checkpoint_bytes), "checkpoint");
    card(duration_text(r_.timings.total), "time");
    card(bytes_text(r_.peak_rss_bytes), "peak memory");
    return html + "</div>\n";
  }

  std::string health() const {
    if (!r_.health) return "";
    const eval::Health& h = r_.health->figures;
    std::string html = heading("Health");
    html += paragraph(
        format("%lld tokens of ", static_cast<long long>(h.num_tokens)) + r_.health->source +
        (r_.health->calibrated ? ", which the run was also calibrated on, so that new text may "
                                 "fare a little worse"
                               : ", which the run was not calibrated on") +
        ". Quantized linears are computed in integers, as the accelerator does.");
    Table figures({{"", false}, {"float"}, {"quantized"}});
    figures.row({"perplexity on these tokens", short_number(h.baseline_perplexity),
                 short_number(h.perplexity)});
    figures.row({"KL from float, mean ± standard error", "",
                 short_number(h.kl_mean) + " ± " + format("%.2g", h.kl_stderr)});
    figures.row({"KL from float, largest", "", short_number(h.kl_max)});
    figures.row({"top-1 agreement", "", percent(h.top1_agreement)});
    figures.row({"embedding, distance in the rotated basis", "", percent(h.embedding_error)});
    html += figures.html();
    if (!h.layers.empty()) {
      html +=
          "<p><b>Worst layers</b>, each alone on what the float layer reads: error of the "
          "output relative to what the layer adds to the residual stream.</p>\n";
      Table worst({{"layer"}, {"error"}, {"drift behind it"}, {"linears at 4 bits", false}});
      for (size_t i = 0; i < judgement_.worst.size() && i < 5; ++i) {
        const auto index = static_cast<size_t>(judgement_.worst[i]);
        worst.row({std::to_string(index), percent(h.layers[index].error),
                   percent(h.layers[index].drift), escaped(four_bit_of(index))});
      }
      html += worst.html();
    }
    for (const eval::Continuation& c : h.continuations)
      html += "<blockquote><b>prompt</b> " + escaped(c.prompt) + "\n<b>float</b> " +
              escaped(c.baseline) + "\n<b>quantized</b> " + escaped(c.model) + "</blockquote>\n";
    return html;
  }

  // The run among others: what they cost, and what came of it.
  std::string beside() const {
    if (others_.empty()) return "";
    Table table({{"recipe", false},
                 {"KL from float"},
                 {"top-1 agreement"},
                 {"TFLOP"},
                 {"time"},
                 {"checked on", false}});
    Scatter scatter{.title = "Divergence against work",
                    .x_label = "operations of the plan, TFLOP",
                    .y_label = "KL from float, nats per token",
                    .points = {}};
    const auto add = [&](const RunRecord& run, const char* style) {
      const double tflop = run.recipe.flops > 0 ? run.recipe.flops * 1e-12 : std::nan("");
      std::vector<std::string> row = {
          escaped(run.recipe.config_id),    "–",          "–", short_number(tflop),
          duration_text(run.timings.total), "not checked"};
      if (run.health) {
        const eval::Health& h = run.health->figures;
        const bool comparable = r_.health &&
                                r_.health->tokens_sha256 == run.health->tokens_sha256 &&
                                !r_.health->tokens_sha256.empty();
        row[1] = short_number(h.kl_mean);
        row[2] = percent(h.top1_agreement);
        row[5] = escaped(run.health->source) + (comparable ? "" : ": another text, so not drawn");
        if (comparable && tflop > 0 && h.kl_mean > 0)
          scatter.points.push_back({run.recipe.config_id, style, tflop, h.kl_mean});
      }
      table.row(row);
    };
    add(r_, "s1");
    const char* styles[] = {"s2", "s3", "s4", "fp"};
    for (size_t i = 0; i < others_.size(); ++i) add(others_[i], styles[i % std::size(styles)]);
    return heading("Beside other runs") +
           (scatter.points.size() > 1 ? plots(to_figure(scatter)) : "") + table.html();
  }

  std::string four_bit_of(size_t layer) const {
    std::string names;
    if (layer >= r_.layers.size()) return names;
    for (const Linear& linear : with_experts_as_one(r_.layers[layer].linears))
      if (linear.weight_bits == 4) names += (names.empty() ? "" : ", ") + short_module(linear.name);
    return names.empty() ? "none" : names;
  }

  std::string layers_apart() const {
    if (!r_.health || r_.health->figures.layers.empty()) return "";
    const auto& layers = r_.health->figures.layers;
    Series error{"error", "s1", {}}, drift{"drift", "s2", {}};
    Table table({{"layer"}, {"error alone"}, {"drift"}});
    for (size_t i = 0; i < layers.size(); ++i) {
      error.values.push_back(100 * layers[i].error);
      drift.values.push_back(100 * layers[i].drift);
      table.row({std::to_string(i), percent(layers[i].error), percent(layers[i].drift)});
    }
    const bool wide = spread(error.values) > 30;
    return heading("Error per layer") +
           plots(to_figure(Chart{.title = "Each layer alone",
                                 .x_label = "layer",
                                 .y_label = "% of what the layer adds",
                                 .series = {error},
                                 .log_scale = wide}) +
                 to_figure(Chart{.title = "Hidden states behind each layer",
                                 .x_label = "layer",
                                 .y_label = "% off, errors of all layers before included",
                                 .kind = Chart::Kind::kLines,
                                 .series = {{drift.name, "s2", drift.values}}})) +
           table.folded("Table: error per layer");
  }

  static double spread(const std::vector<double>& values) {
    double low = 1e300, high = 0;
    for (const double v : values)
      if (std::isfinite(v) && v > 0) {
        low = std::min(low, v);
        high = std::max(high, v);
      }
    return high > 0 ? high / low : 1;
  }

  std::string bits() const {
    if (r_.layers.empty()) return "";
    CellMap map{.title = "What each linear became",
                .x_label = "layer",
                .row_names = {},
                .rows = {},
                .legend = {}};
    Chart average{.title = "Bits per weight",
                  .x_label = "layer",
                  .y_label = "mean over the layer's linears",
                  .series = {{"bits", "s1", {}}}};
    std::map<std::string, double> totals;
    Table table({{"linear", false},
                 {"label", false},
                 {"parameters"},
                 {"weight error"},
                 {"clipped"},
                 {"range"},
                 {"decided by", false}});
    for (size_t i = 0; i < r_.layers.size(); ++i) {
      double sum = 0, size = 0;
      const std::vector<Linear> linears = with_experts_as_one(r_.layers[i].linears);
      for (const Linear& linear : linears) {
        const std::string name = short_module(linear.name);
        const auto l =
            static_cast<size_t>(std::ranges::find(map.row_names, name) - map.row_names.begin());
        if (map.rows.size() <= l) {
          map.rows.emplace_back();
          map.row_names.push_back(name);
        }
        map.rows[l].resize(i);
        const std::string label =
            linear.label + (linear.transform.empty() ? "" : ", " + linear.transform);
        map.rows[l].push_back({style_of(linear.label), linear.name + ": " + label});
        totals[linear.label] += static_cast<double>(linear.parameters);
        sum += static_cast<double>(linear.parameters * linear.weight_bits);
        size += static_cast<double>(linear.parameters);
        table.row({escaped(linear.name), escaped(label), std::to_string(linear.parameters),
                   percent(linear.weight_error), percent(linear.clipped),
                   short_number(linear.range), escaped(linear.decided_by)});
      }
      average.series[0].values.push_back(size > 0 ? sum / size : std::nan(""));
    }
    for (const auto& [label, size] : totals)
      map.legend.push_back({label + " " + percent(size / parameters_), style_of(label), {}});
    if (map.legend.size() == 1) map.legend.push_back({"", "", {}});
    return heading("Bits per layer") + plots(to_figure(map) + to_figure(average)) +
           table.folded("Table: every linear, why, and what rounding did to it");
  }

  std::string experts() const {
    Table table({{"layer"}, {"fewest tokens"}, {"most tokens"}, {"filled up"}, {"unseen"}});
    bool any = false;
    for (size_t i = 0; i < r_.layers.size(); ++i) {
      const std::vector<int64_t>& tokens = r_.layers[i].expert_tokens;
      if (tokens.empty()) continue;
      any = true;
      const auto few = std::ranges::count_if(
          tokens, [&](int64_t count) { return count < r_.layers[i].enough_expert_tokens; });
      table.row({std::to_string(i), std::to_string(*std::ranges::min_element(tokens)),
                 std::to_string(*std::ranges::max_element(tokens)), std::to_string(few),
                 std::to_string(std::ranges::count(tokens, 0))});
    }
    Series rerouted{"rerouted", "s1", {}};
    if (r_.health)
      for (const eval::LayerHealth& layer : r_.health->figures.layers)
        rerouted.values.push_back(100 * layer.rerouted);
    const bool has_routes =
        std::ranges::any_of(rerouted.values, [](double value) { return std::isfinite(value); });
    if (!any && !has_routes) return "";
    std::string text = heading("Experts");
    if (has_routes)
      text += plots(to_figure(Chart{.title = "Tokens that go to other experts",
                                    .x_label = "layer",
                                    .y_label = "% of tokens, errors of all layers before included",
                                    .series = {rerouted}}));
    if (any) text += table.folded("Table: calibration tokens of experts");
    return text;
  }

  std::string cache() const {
    Series keys{"keys", "s1", {}}, values{"values", "s2", {}};
    Table table({{"layer"}, {"keys"}, {"values"}});
    for (size_t i = 0; i < r_.layers.size(); ++i) {
      const Layer& layer = r_.layers[i];
      keys.values.push_back(100 * layer.key_error);
      values.values.push_back(100 * layer.value_error);
      table.row({std::to_string(i), percent(layer.key_error), percent(layer.value_error)});
    }
    if (std::all_of(keys.values.begin(), keys.values.end(), [](double v) { return v != v; }))
      return "";
    return heading("Cache in int8") +
           plots(to_figure(Chart{.title = "What the codes of the cache lose",
                                 .x_label = "layer",
                                 .y_label = "% of the squares of keys and of values",
                                 .series = {keys, values}})) +
           table.folded("Table: error of the cache per layer");
  }

  std::string training() const {
    Series rounding{"rounded to nearest", "s2", {}}, kept{"kept", "s1", {}};
    Table table(
        {{"layer"}, {"rounded"}, {"kept"}, {"change"}, {"iteration kept"}, {"loss", false}});
    bool any = false;
    for (size_t i = 0; i < r_.layers.size(); ++i) {
      rounding.values.push_back(std::nan(""));
      kept.values.push_back(std::nan(""));
      for (const autoround::LayerReport& t : r_.layers[i].training) {
        if (t.losses.empty()) continue;
        any = true;
        rounding.values.back() = t.rounding_loss;
        kept.values.back() = t.loss;
        const auto iters = static_cast<int64_t>(t.losses.size());
        table.row({std::to_string(i), short_number(t.rounding_loss), short_number(t.loss),
                   format("%+.1f %%", 100 * (t.loss / t.rounding_loss - 1)),
                   t.kept_iteration == 0      ? "none: rounding was best"
                   : t.kept_iteration > iters ? "last"
                                              : std::to_string(t.kept_iteration),
                   sparkline(t.losses)});
      }
    }
    std::string html;
    if (any) {
      const bool wide = spread(rounding.values) > 30;
      html += plots(to_figure(Chart{
                        .title = "Loss per layer",
                        .x_label = "layer",
                        .y_label = "mean absolute error of the layer's output",
                        .kind = r_.layers.size() > 24 ? Chart::Kind::kLines : Chart::Kind::kBars,
                        .series = {rounding, kept},
                        .log_scale = wide}) +
                    loss_curves()) +
              table.folded("Table: loss per layer, with its curve over the iterations");
    }
    for (const Fit& fit : r_.fits) html += fit_of(fit);
    return html.empty() ? "" : heading("Training") + html;
  }

  // Loss of each iteration relative to the first's, the middle layer and both quarters around it,
  // so that the curves can be told apart.
  std::string loss_curves() const {
    std::vector<size_t> trained;
    for (size_t i = 0; i < r_.layers.size(); ++i)
      if (!r_.layers[i].training.empty() && !r_.layers[i].training.back().losses.empty())
        trained.push_back(i);
    Chart chart{.title = "Loss over the iterations",
                .x_label = "iteration",
                .y_label = "relative to plain rounding, smoothed",
                .kind = Chart::Kind::kLines,
                .first_x = 1};
    std::vector<size_t> shown;
    for (size_t part = 0; part < 4; ++part) {
      const size_t layer = trained[part * (trained.size() - 1) / 3];
      if (!shown.empty() && shown.back() == layer) continue;
      shown.push_back(layer);
      const autoround::LayerReport& report = r_.layers[layer].training.back();
      Series series{"layer " + std::to_string(layer), kGroupStyles[part], {}};
      double mean = 0, weight = 0;
      for (const double loss : report.losses) {
        // Each iteration draws its own samples; a decaying mean shows the trend.
        mean = 0.9 * mean + loss;
        weight = 0.9 * weight + 1;
        series.values.push_back(mean / weight / report.rounding_loss);
      }
      chart.series.push_back(std::move(series));
    }
    return to_figure(chart);
  }

  std::string fit_of(const Fit& fit) const {
    const auto kept = std::find(fit.steps.begin(), fit.steps.end(), fit.best_step);
    if (kept == fit.steps.end() || fit.losses.size() != fit.steps.size()) return "";
    Chart chart{.title = "Fit of the rotation",
                .x_label = "step",
                .y_label = "activation error relative to the plain Hadamard matrix",
                .kind = Chart::Kind::kLines,
                .series = {{"loss", "s1", {}}},
                .x_step = fit.steps.size() > 1 ? static_cast<double>(fit.steps[1]) : 1,
                .mark_x = static_cast<double>(fit.best_step),
                .mark_name = "kept"};
    for (const double loss : fit.losses)
      chart.series[0].values.push_back(loss / fit.losses.front());
    const auto best = static_cast<size_t>(kept - fit.steps.begin());
    return paragraph(format(
               "Rotation: step %lld of %lld was kept, %+.1f %% activation error against "
               "the plain Hadamard matrix; |RᵀR − I| %.1g.",
               static_cast<long long>(fit.best_step), static_cast<long long>(fit.steps.back()),
               100 * (fit.losses[best] / fit.losses.front() - 1), fit.orthogonality)) +
           plots(to_figure(chart));
  }

  std::string outliers() const {
    if (!r_.health || r_.health->figures.layers.empty()) return "";
    const auto& layers = r_.health->figures.layers;
    std::string figures;
    Table table({{"layer"},
                 {"linears", false},
                 {"max / RMS before"},
                 {"after"},
                 {"kurtosis before"},
                 {"after"}});
    for (size_t g = 0; g < 4; ++g) {
      Chart chart{.title = std::string("Input of ") + kGroupNames[g],
                  .x_label = "layer",
                  .y_label = "max / RMS of a token",
                  .kind = Chart::Kind::kLines,
                  .series = {{"float model", "s2", {}}, {"as quantized", "s1", {}}}};
      for (const eval::LayerHealth& layer : layers) {
        chart.series[0].values.push_back(layer.before[g].max_to_rms);
        const double after = layer.after[g].max_to_rms;
        chart.series[1].values.push_back(after > 0 ? after : std::nan(""));
      }
      figures += to_figure(chart);
    }
    for (size_t i = 0; i < layers.size(); ++i)
      for (size_t g = 0; g < 4; ++g)
        table.row({std::to_string(i), kGroupNames[g], short_number(layers[i].before[g].max_to_rms),
                   short_number(layers[i].after[g].max_to_rms),
                   short_number(layers[i].before[g].kurtosis),
                   short_number(layers[i].after[g].kurtosis)});
    return heading("Outliers before and after rotation") +
           paragraph(
               "The largest value of a token sets the step of all its values: the lower max / "
               "RMS, the finer 4 bits are. Normally distributed values of this many channels "
               "would have about 3 to 4, and a kurtosis of 3.") +
           plots(figures) + table.folded("Table: outliers per layer");
  }

  std::string weights() const {
    Chart error{.title = "Weight error",
                .x_label = "layer",
                .y_label = "% of the weight's norm",
                .kind = Chart::Kind::kLines};
    Chart range{.title = "Range kept",
                .x_label = "layer",
                .y_label = "scale relative to one that clips nothing",
                .kind = Chart::Kind::kLines};
    // One linear of each group.
    const std::pair<std::string, const char*> shown[] = {
        {std::string(hf::short_name(hf::Linear::kQProj)), "s1"},
        {std::string(hf::short_name(hf::Linear::kOProj)), "s2"},
        {std::string(hf::short_name(hf::Linear::kUpProj)), "s3"},
        {std::string(hf::short_name(hf::Linear::kDownProj)), "s4"}};
    bool any = false;
    for (const auto& [path, style] : shown) {
      Series errors{path, style, {}}, ranges{path, style, {}};
      for (const Layer& layer : r_.layers) {
        errors.values.push_back(std::nan(""));
        ranges.values.push_back(std::nan(""));
        for (const Linear& linear : layer.linears) {
          if (short_module(linear.name) + "_proj" != path || linear.label == scheme::kFloatLabel)
            continue;
          errors.values.back() = 100 * linear.weight_error;
          ranges.values.back() = linear.range;
          any = true;
        }
      }
      error.series.push_back(std::move(errors));
      range.series.push_back(std::move(ranges));
    }
    if (!any) return "";
    return heading("Weights and clipping") +
           paragraph(
               "Learned and solved rounding may shrink a channel's range: a few weights are "
               "clipped so that all others get finer steps. Error alone does not judge it: "
               "what counts is the layer's output above.") +
           plots(to_figure(error) + to_figure(range));
  }

  std::string time_and_memory() const {
    Chart seconds{.title = "Time per layer",
                  .x_label = "layer",
                  .y_label = "seconds",
                  .series = {{"seconds", "s1", {}}}};
    Chart memory{.title = "Peak memory until each layer",
                 .x_label = "layer",
                 .y_label = "GB resident",
                 .kind = Chart::Kind::kLines,
                 .series = {{"GB", "s3", {}}}};
    Table table({{"layer"}, {"seconds"}, {"peak memory"}});
    for (size_t i = 0; i < r_.layers.size(); ++i) {
      const Layer& layer = r_.layers[i];
      seconds.series[0].values.push_back(layer.seconds);
      memory.series[0].values.push_back(static_cast<double>(layer.peak_rss_bytes) / 1e9);
      table.row(
          {std::to_string(i), format("%.2f", layer.seconds), bytes_text(layer.peak_rss_bytes)});
    }
    Table parts({{"part", false}, {"time"}});
    const Timings& t = r_.timings;
    const std::pair<const char*, double> rows[] = {
        {"rotation", t.fit}, {"layers", t.layers}, {"save", t.save}, {"health check", t.health}};
    for (const auto& [name, value] : rows) parts.row({name, duration_text(value)});
    parts.row({"all, with what lies between", duration_text(t.total)});
    return heading("Time and memory") + parts.html() +
           (r_.layers.empty() ? ""
                              : plots(to_figure(seconds) + to_figure(memory)) +
                                    table.folded("Table: time and memory per layer"));
  }

  std::string ranks() const {
    if (r_.ranks.empty()) return "";
    Table table({{"rank"},
                 {"machine", false},
                 {"threads"},
                 {"layers"},
                 {"float pass"},
                 {"layers' time"},
                 {"waiting"},
                 {"processor time"},
                 {"sent"},
                 {"received"},
                 {"peak memory"}});
    double busiest = 0, sum = 0, wire = 0;
    for (size_t i = 0; i < r_.ranks.size(); ++i) {
      const Rank& rank = r_.ranks[i];
      busiest = std::max(busiest, rank.seconds - rank.wait_seconds);
      sum += rank.seconds - rank.wait_seconds;
      wire += static_cast<double>(rank.sent_bytes);
      table.row({std::to_string(i), escaped(rank.host), std::to_string(rank.threads),
                 std::to_string(rank.layers), duration_text(rank.pass_seconds),
                 duration_text(rank.layer_seconds), duration_text(rank.wait_seconds),
                 duration_text(rank.cpu_seconds), bytes_text(rank.sent_bytes),
                 bytes_text(rank.received_bytes), bytes_text(rank.peak_rss_bytes)});
    }
    const auto count = static_cast<double>(r_.ranks.size());
    return heading("Ranks") +
           paragraph(format("The job was shared by %zu processes. The busiest worked %.2f of "
                            "their mean; ",
                            r_.ranks.size(), sum > 0 ? busiest * count / sum : 1.0) +
                     bytes_text(wire) + " went over the wire.") +
           table.html();
  }

  std::string recipe() const {
    const Recipe& recipe = r_.recipe;
    std::string html = heading("Recipe");
    html += "<p class=\"dim\">" + escaped(recipe.path) + "</p>\n";
    html += paragraph(recipe.dataset.empty()
                          ? "Nothing was calibrated."
                          : format("Calibrated on %lld samples, %lld tokens, seed %lld: ",
                                   static_cast<long long>(recipe.num_samples),
                                   static_cast<long long>(recipe.num_tokens),
                                   static_cast<long long>(recipe.seed)) +
                                recipe.dataset);
    if (!r_.warnings.empty()) {
      html += "<ul>";
      for (const std::string& warning : r_.warnings) html += "<li>" + escaped(warning) + "</li>";
      html += "</ul>\n";
    }
    return html + "<details><summary>The recipe as it ran</summary><pre>" + escaped(recipe.text) +
           "</pre></details>\n";
  }

  std::string environment() const {
    const Environment& e = r_.environment;
    Table table({{"", false}, {"", false}});
    table.row(
        {"model", escaped(format("%lld layers, hidden %lld, intermediate %lld, vocabulary %lld, ",
                                 static_cast<long long>(r_.model.num_layers),
                                 static_cast<long long>(r_.model.hidden_size),
                                 static_cast<long long>(r_.model.intermediate_size),
                                 static_cast<long long>(r_.model.vocab_size)) +
                          r_.model.dtype)});
    table.row({"processor", escaped(e.cpu)});
    table.row({"kernels", escaped(e.instruction_set)});
    table.row({"threads", std::to_string(e.threads)});
    table.row({"memory", bytes_text(e.memory_bytes)});
    table.row({"system", escaped(e.system)});
    std::string libraries;
    for (const std::string& library : r_.libraries)
      libraries += (libraries.empty() ? "" : ", ") + library;
    table.row({"versions",
               escaped("laos " + r_.laos_version + (libraries.empty() ? "" : ", " + libraries))});
    return heading("Environment") + table.html();
  }

  const RunRecord& r_;
  const std::vector<RunRecord>& others_;
  eval::Judgement judgement_;
  double parameters_ = 0, bits_ = 0, w4a4_ = 0;  // of the decoder's linears
};

}  // namespace

std::string to_html(const RunRecord& record, const std::vector<RunRecord>& others) {
  return Page(record, others).html();
}

}  // namespace laos::report
