// The report of a run for people: one HTML page that needs nothing else.
#pragma once

#include <string>

#include "report/run_record.h"

namespace laos::report {

// A page of markup, styles and SVG; no script, nothing from a network, and a policy that forbids
// both. Light and dark as the reader's system is; prints in light with all tables open. All text of
// the record is escaped. Same record, same bytes.
std::string to_html(const RunRecord& record);

}  // namespace laos::report
