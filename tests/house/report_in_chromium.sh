#!/usr/bin/env bash
# Opens the report of a 64-layer run in headless Chromium, at desktop and phone width, in light and dark: nothing may
# be logged as an error, the page may not be wider than the screen, and each view must give a screenshot. Prints how
# long opening takes. Arguments: path of make_report, directory for the screenshots. Exits with 77 (skipped) where
# there is no Chromium.
set -euo pipefail
make_report=$1
shots=$2
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [[ -z $chromium ]]; then
  echo "SKIPPED: no Chromium (Debian package chromium)"
  exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$make_report" "$work" 64 400
mkdir -p "$shots"

# The page stands in a frame, since a window cannot be as narrow as a phone. What the frame measured becomes the
# document's text.
frame() {
  cat >"$work/frame-$1.html" <<HTML
<!doctype html><html><body style="margin:0"><script>
const start = performance.now();
function measure(frame) {
  const took = performance.now() - start, root = frame.contentDocument.documentElement;
  const result = [Math.round(took), root.scrollWidth, root.scrollHeight, frame.contentDocument.querySelectorAll('svg').length];
  document.documentElement.setAttribute('data-result', result.join(' '));
}
</script><iframe src="report.html" onload="measure(this)" style="border:0;width:$1px;height:$2px"></iframe></body></html>
HTML
}
run() {
  timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
    --user-data-dir="$work/profile" --enable-logging=stderr --window-size="$1,2400" "${@:2}" 2>>"$work/log"
}

failed=0
for width in 1200 390; do
  frame "$width" 2400
  result=$(run 1200 --dump-dom "file://$work/frame-$width.html" | sed -n 's/.*data-result="\([^"]*\)".*/\1/p')
  read -r took scroll_width scroll_height plots <<<"$result"
  echo "$width px: opened in $took ms, $plots plots, $scroll_height px long"
  if ((scroll_width > width || plots < 12)); then
    echo "the page is $scroll_width px wide at $width px, with $plots plots"
    failed=1
  fi
  for scheme in light dark; do
    shot="$shots/report-$width-$scheme.png"
    rm -f "$shot"
    # Of Chromium's own numbering: 0 is dark, 1 is light.
    run "$((width < 500 ? 500 : width))" --blink-settings=preferredColorScheme=$([[ $scheme == dark ]] && echo 0 || echo 1) \
      --screenshot="$shot" "file://$work/frame-$width.html" >/dev/null
    if [[ ! -s $shot ]]; then
      echo "no screenshot of the $scheme page at $width px"
      failed=1
    fi
  done
  cmp -s "$shots/report-$width-light.png" "$shots/report-$width-dark.png" && { echo "light and dark look the same"; failed=1; }
done
if grep -E 'CONSOLE' "$work/log"; then
  echo "the page logs errors"
  failed=1
fi
echo "screenshots: $shots"
exit "$failed"
