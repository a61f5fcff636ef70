#include "report/chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/format.h"

namespace laos::report {
namespace {

// In units of the viewBox, which are CSS pixels on a phone.
constexpr double kWidth = 400, kHeight = 210;
constexpr double kLeft = 46, kRight = 8, kTop = 8, kBottom = 34;
constexpr double kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;

struct Axis {
  double low = 0, high = 1;
  bool log_scale = false;
  std::vector<double> ticks;

  double at(double value) const {  // 0 at the bottom, 1 at the top
    const double share =
        log_scale ? (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low))
                  : (value - low) / (high - low);
    return std::clamp(share, 0.0, 1.0);
  }
  double y(double value) const { return kTop + (1 - at(value)) * kPlotHeight; }
};

Axis linear_axis(double top) {
  Axis axis;
  if (!(top > 0)) top = 1;
  const double raw = top / 4, base = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * base;
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * base >= raw) step = factor * base;
  axis.high = std::ceil(top / step - 1e-9) * step;
  for (int i = 0; i * step <= axis.high * 1.0001; ++i) axis.ticks.push_back(i * step);
  return axis;
}

Axis log_axis(double bottom, double top) {
  Axis axis;
  axis.log_scale = true;
  const double decades = std::log10(top / bottom);
  const std::vector<double> factors =
      decades > 3 ? std::vector<double>{1} : std::vector<double>{1, 2, 5};
  std::vector<double> all;
  const auto first_decade = static_cast<int>(std::floor(std::log10(bottom))) - 1;
  const auto last_decade = static_cast<int>(std::ceil(std::log10(top))) + 1;
  for (int decade = first_decade; decade <= last_decade; ++decade)
    for (const double factor : factors) all.push_back(factor * std::pow(10, decade));
  // The ticks around all values, and every tick between.
  const auto first = std::upper_bound(all.begin(), all.end(), bottom * 0.999) - 1;
  const auto last = std::lower_bound(all.begin(), all.end(), top);
  axis.ticks.assign(first, last + 1);
  axis.low = axis.ticks.front();
  axis.high = axis.ticks.back();
  return axis;
}

bool is_drawn(double value, bool log_scale) {
  return std::isfinite(value) && (!log_scale || value > 0);
}

Axis axis_of(const Chart& chart, size_t count) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (size_t i = 0; i < count; ++i) {
    double sum = 0;
    for (const Series& series : chart.series) {
      if (i >= series.values.size() || !is_drawn(series.values[i], chart.log_scale)) continue;
      low = std::min(low, series.values[i]);
      sum = chart.kind == Chart::Kind::kStacked ? sum + series.values[i]
                                                : std::max(sum, series.values[i]);
    }
    high = std::max(high, sum);
  }
  if (chart.log_scale && high > 0) return log_axis(low, high);
  return linear_axis(high);
}

std::string svg_of(double height, const std::string& title) {
  return format("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">", kWidth, height,
                escaped(title).substr(0, 300).c_str());
}

std::string grid_of(const Axis& axis) {
  std::string svg;
  for (const double tick : axis.ticks) {
    svg += format("<line class=\"grid\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>", kLeft,
                  kWidth - kRight, axis.y(tick), axis.y(tick));
    svg += format("<text x=\"%.0f\" y=\"%.1f\" class=\"end\">%s</text>", kLeft - 4,
                  axis.y(tick) + 3.5, short_number(tick).c_str());
  }
  return svg;
}

std::string x_label_of(const std::string& label) {
  return format("<text x=\"%.1f\" y=\"%.0f\" class=\"mid name\">%s</text>", kLeft + kPlotWidth / 2,
                kHeight - 5, escaped(label).c_str());
}

std::string frame_of(const Chart& chart, const Axis& axis, size_t count, double slot, bool points) {
  std::string svg = grid_of(axis);
  size_t stride = 1;
  for (const size_t s : {1, 2, 4, 8, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000}) {
    stride = s;
    if (count <= 9 * s) break;
  }
  // Numbers that count from 1 are labelled where they are multiples of the stride.
  for (size_t i = chart.first_x == 1 && chart.x_step == 1 ? stride - 1 : 0; i < count; i += stride)
    svg +=
        format("<text x=\"%.1f\" y=\"%.0f\" class=\"mid\">%s</text>",
               kLeft + (static_cast<double>(i) + (points ? 0 : 0.5)) * slot, kHeight - kBottom + 13,
               short_number(chart.first_x + chart.x_step * static_cast<double>(i)).c_str());
  return svg + x_label_of(chart.x_label);
}

std::string legend_of(const std::vector<Series>& series) {
  if (series.size() < 2) return "";
  std::string html = "<p class=\"legend\">";
  for (const Series& s : series)
    html += "<span><i class=\"" + s.style + "\"></i>" + escaped(s.name) + "</span>";
  return html + "</p>";
}

std::string figure_of(const std::string& title, const std::string& sub,
                      const std::vector<Series>& legend, const std::string& svg) {
  return "<figure><figcaption><b>" + escaped(title) + "</b>" +
         (sub.empty() ? "" : " <span>" + escaped(sub) + "</span>") + "</figcaption>" +
         legend_of(legend) + svg + "</figure>\n";
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        // Control characters have no place in HTML.
        result += (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') ? ' ' : c;
    }
  }
  return result;
}

std::string short_number(double value) {
  if (std::isnan(value)) return "–";
  if (std::isinf(value)) return value > 0 ? "∞" : "-∞";
  const double size = std::fabs(value);
  if (size >= 1000 && size < 1e7) return format("%.0f", value);
  return format("%.4g", value);
}

std::string to_figure(const Chart& chart) {
  size_t count = 0;
  for (const Series& series : chart.series) count = std::max(count, series.values.size());
  const bool points = chart.kind == Chart::Kind::kLines && count > 1;
  const double slot =
      kPlotWidth / static_cast<double>(std::max<size_t>(1, points ? count - 1 : count));
  const Axis axis = axis_of(chart, count);
  std::string svg = svg_of(kHeight, chart.title);
  svg += frame_of(chart, axis, count, slot, points);
  const auto tip = [&](const Series& series, size_t i) {
    std::string text =
        chart.x_label + " " + short_number(chart.first_x + chart.x_step * static_cast<double>(i));
    if (chart.series.size() > 1) text += ", " + series.name;
    return "<title>" + escaped(text + ": " + short_number(series.values[i])) + "</title>";
  };
  if (chart.kind == Chart::Kind::kLines) {
    for (const Series& series : chart.series) {
      std::string path;
      bool pen_down = false;
      for (size_t i = 0; i < series.values.size(); ++i) {
        if (!is_drawn(series.values[i], chart.log_scale)) {
          pen_down = false;
          continue;
        }
        path += format("%s%.1f %.1f", pen_down ? "L" : "M", kLeft + static_cast<double>(i) * slot,
                       axis.y(series.values[i]));
        pen_down = true;
      }
      svg += "<path class=\"line " + series.style + "\" d=\"" + path + "\"/>";
      if (series.values.size() > 130) continue;
      for (size_t i = 0; i < series.values.size(); ++i)
        if (is_drawn(series.values[i], chart.log_scale))
          svg +=
              format("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\">", series.style.c_str(),
                     kLeft + static_cast<double>(i) * slot, axis.y(series.values[i])) +
              tip(series, i) + "</circle>";
    }
  } else {
    const bool stacked = chart.kind == Chart::Kind::kStacked;
    const double room = slot * (count > 24 ? 0.86 : 0.72);
    const double width = stacked ? room : room / static_cast<double>(chart.series.size());
    for (size_t i = 0; i < count; ++i) {
      double base = 0;
      for (size_t s = 0; s < chart.series.size(); ++s) {
        const Series& series = chart.series[s];
        if (i >= series.values.size() || !is_drawn(series.values[i], chart.log_scale)) continue;
        const double from = stacked ? base : (chart.log_scale ? axis.low : 0);
        const double to = stacked ? base + series.values[i] : series.values[i];
        base = to;
        const double x = kLeft + static_cast<double>(i) * slot + (slot - room) / 2 +
                         (stacked ? 0 : static_cast<double>(s) * width);
        svg += format("<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\">",
                      series.style.c_str(), x, axis.y(to), width,
                      std::max(0.0, axis.y(from) - axis.y(to))) +
               tip(series, i) + "</rect>";
      }
    }
  }
  if (chart.mark_x >= 0) {
    const double x = kLeft + (chart.mark_x - chart.first_x) / chart.x_step * slot;
    const bool right = x > kLeft + kPlotWidth * 0.6;
    svg += format("<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"/>", x, x,
                  kTop, kHeight - kBottom);
    svg += format("<text class=\"%s\" x=\"%.1f\" y=\"%.0f\">%s</text>", right ? "end" : "start",
                  right ? x - 4 : x + 4, kTop + 10, escaped(chart.mark_name).c_str());
  }
  return figure_of(chart.title, chart.y_label, chart.series, svg + "</svg>");
}

std::string to_figure(const Scatter& scatter) {
  const auto axis_over = [&](double Point::*value) {
    double low = std::numeric_limits<double>::infinity(), high = 0;
    for (const Point& point : scatter.points) {
      low = std::min(low, point.*value);
      high = std::max(high, point.*value);
    }
    return log_axis(low, high);
  };
  std::string svg = svg_of(kHeight, scatter.title);
  const Axis x_axis = axis_over(&Point::x), y_axis = axis_over(&Point::y);
  const auto x_at = [&](double value) { return kLeft + x_axis.at(value) * kPlotWidth; };
  svg += grid_of(y_axis);
  for (const double tick : x_axis.ticks) {
    svg += format("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"/>",
                  x_at(tick), x_at(tick), kTop, kHeight - kBottom);
    svg += format("<text x=\"%.1f\" y=\"%.0f\" class=\"mid\">%s</text>", x_at(tick),
                  kHeight - kBottom + 13, short_number(tick).c_str());
  }
  svg += x_label_of(scatter.x_label);
  for (const Point& point : scatter.points)
    svg += format("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\">", point.style.c_str(),
                  x_at(point.x), y_axis.y(point.y)) +
           "<title>" +
           escaped(point.name + ": " + short_number(point.x) + ", " + short_number(point.y)) +
           "</title></circle>";
  std::vector<Series> legend;
  for (const Point& point : scatter.points) legend.push_back({point.name, point.style, {}});
  return figure_of(scatter.title, scatter.y_label, legend, svg + "</svg>");
}

std::string to_figure(const CellMap& map) {
  constexpr double kNames = 56, kRow = 18;
  size_t columns = 1;
  for (const auto& row : map.rows) columns = std::max(columns, row.size());
  const double slot = (kWidth - kNames - kRight) / static_cast<double>(columns);
  const double height = kRow * static_cast<double>(map.rows.size()) + kBottom;
  std::string svg = svg_of(height, map.title);
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const double y = kRow * static_cast<double>(r);
    svg += format("<text x=\"%.0f\" y=\"%.1f\" class=\"end\">%s</text>", kNames - 5, y + 12.5,
                  escaped(map.row_names[r]).substr(0, 60).c_str());
    for (size_t c = 0; c < map.rows[r].size(); ++c) {
      const Cell& cell = map.rows[r][c];
      if (cell.style.empty()) continue;
      svg += format("<rect class=\"%s\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\">",
                    cell.style.c_str(), kNames + static_cast<double>(c) * slot + slot * 0.06, y + 1,
                    slot * 0.88, kRow - 2) +
             "<title>" + escaped(cell.tip) + "</title></rect>";
    }
  }
  size_t stride = 1;
  for (const size_t s : {1, 2, 4, 8, 16, 32}) {
    stride = s;
    if (columns <= 9 * s) break;
  }
  for (size_t c = 0; c < columns; c += stride)
    svg += format("<text x=\"%.1f\" y=\"%.0f\" class=\"mid\">%zu</text>",
                  kNames + (static_cast<double>(c) + 0.5) * slot, height - kBottom + 13, c);
  svg += format("<text x=\"%.1f\" y=\"%.0f\" class=\"mid name\">%s</text>",
                kNames + (kWidth - kNames) / 2, height - 5, escaped(map.x_label).c_str());
  return figure_of(map.title, "", map.legend, svg + "</svg>");
}

std::string sparkline(const std::vector<double>& values) {
  constexpr double kSparkWidth = 120, kSparkHeight = 24;
  constexpr size_t kPoints = 60;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  std::vector<double> means;  // of equal parts, so that a long curve keeps its shape
  const size_t parts = std::min(kPoints, values.size());
  for (size_t p = 0; p < parts; ++p) {
    double sum = 0;
    const size_t begin = p * values.size() / parts, end = (p + 1) * values.size() / parts;
    for (size_t i = begin; i < end; ++i) sum += values[i];
    means.push_back(sum / static_cast<double>(end - begin));
    if (!std::isfinite(means.back())) continue;
    low = std::min(low, means.back());
    high = std::max(high, means.back());
  }
  std::string path;
  for (size_t p = 0; p < means.size(); ++p) {
    if (!std::isfinite(means[p])) continue;
    const double x = means.size() == 1 ? 0
                                       : kSparkWidth * static_cast<double>(p) /
                                             static_cast<double>(means.size() - 1);
    const double share = high > low ? (means[p] - low) / (high - low) : 0.5;
    path +=
        format("%s%.1f %.1f", path.empty() ? "M" : "L", x, 2 + (1 - share) * (kSparkHeight - 4));
  }
  return format("<svg class=\"spark\" viewBox=\"0 0 %.0f %.0f\"><path class=\"line s1\" d=\"",
                kSparkWidth, kSparkHeight) +
         path + "\"/></svg>";
}

}  // namespace laos::report
