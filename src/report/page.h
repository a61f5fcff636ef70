// The report of a run for people: one HTML page that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "report/run_record.h"

namespace laos::report {

// A page of markup, styles and SVG; no script, nothing from a network, and a policy that forbids
// both. Light and dark as the reader's system is; prints in light with all tables open. All text of
// the record is escaped. Same records, same bytes. Where there are `others`, the page shows what
// they and the run cost and diverge.
std::string to_html(const RunRecord& record, const std::vector<RunRecord>& others = {});

}  // namespace laos::report
