// Plots as SVG: drawn when the page is written, so that they print and need no script.
#pragma once

#include <string>
#include <vector>

namespace laos::report {

// Text as HTML or as the value of a double-quoted attribute.
std::string escaped(const std::string& text);
// Four digits at most: "0.00876", "1234", "1.2e-07"; "–" for NaN.
std::string short_number(double value);

struct Series {
  std::string name;
  std::string style;  // class of the page's style sheet that gives the colour: "s1", "s2", ...
  std::vector<double> values;  // one behind the other; NaN: nothing is drawn
};

struct Chart {
  enum class Kind { kBars, kLines, kStacked };  // kBars: side by side; kStacked: on each other

  std::string title;
  std::string x_label = {}, y_label = {};
  Kind kind = Kind::kBars;
  std::vector<Series> series = {};
  double first_x = 0, x_step = 1;  // values stand at first_x, first_x + x_step, ...
  bool log_scale = false;          // for positive values; others are not drawn
  double mark_x = -1;              // a vertical line at this x, when not negative
  std::string mark_name = {};
};

// A <figure> with its caption, legend (for more than one series) and an <svg> that scales with the
// page's width. Each value has a tooltip.
std::string to_figure(const Chart& chart);

struct Point {
  std::string name;
  std::string style;
  double x, y;  // positive
};
struct Scatter {
  std::string title, x_label, y_label;
  std::vector<Point> points;
};
// The same of named points, both axes logarithmic.
std::string to_figure(const Scatter& scatter);

// A grid of coloured cells: rows x columns, `style` and `tip` of each; "" = no cell.
struct Cell {
  std::string style, tip;
};
struct CellMap {
  std::string title, x_label;
  std::vector<std::string> row_names;
  std::vector<std::vector<Cell>> rows;
  std::vector<Series> legend;  // name and style alone
};
std::string to_figure(const CellMap& map);

// A curve without axes, for a table's cell.
std::string sparkline(const std::vector<double>& values);

}  // namespace laos::report
