# Sums up what cargo, its test programs and the fault suite have printed. `-v seconds=N` says how long it took.

# A program begins. The one before it has crashed if it began its tests and never told their result.
function begins(name, is_file) {
  if (amid_tests) fails("it ended amid its tests")
  amid_tests = 0
  file = name
  kind = is_file
  counted = 0
}

function fails(what) { failed[++failures] = server file ": " what }

# The program has run something, and counts once.
function ran() {
  if (!counted) { if (kind) files++; else others++ }
  counted = 1
}

{
  gsub(/\033\[[0-9;]*[A-Za-z]/, "")
  # Cargo writes how far it is before it returns to the beginning of the line.
  sub(/^.*\r/, "")
}

/^--- PostgreSQL .* ---$/ { begins("", 0); server = $2 " " $3 ", " }
/^ +Running tests\// { begins($2 " (" $3, 1); sub(/ \(.*deps\/.*$/, "", file) }
/^ +Running unittests / { begins($3 " of " $4, 0); sub(/ of .*deps\//, " of ", file); sub(/-[0-9a-f]+\)$/, "", file) }
/^ +Doc-tests / { begins("documentation of " $2, 0) }

/^running [0-9]+ tests?$/ { amid_tests = 1; if ($2 > 0) ran() }
/^test .* \.\.\. FAILED$/ { gsub(/^test | \.\.\. FAILED$/, ""); fails($0) }
/^test result: / { amid_tests = 0; passed += $4; broken += $6; ignored += $8 }

/held \([0-9.]+ s\)$/ { held++; ran() }
/^[0-9]+ of [0-9]+ cases failed: / { lost += $1; ran(); sub(/^[^:]*: /, ""); fails($0) }
/ \.\.\. LEFT OUT: / { sub(/ \.\.\. LEFT OUT: /, ": "); out[++outs] = $0 }

# Cargo's own list, which also has what could not even be built.
/^ +`-p .*`$/ { targets[++aims] = $0; gsub(/^ +`|`$/, "", targets[aims]) }

END {
  begins("", 0)
  if (!failures) for (i = 1; i <= aims; i++) failed[++failures] = targets[i]
  printf "\n--- sum\n"
  printf "test files    %d%s\n", files, others ? ", and " others " programs with tests from src" : ""
  printf "tests         %d passed, %d failed, %d ignored\n", passed, broken, ignored
  if (held + lost + outs) printf "fault cases   %d held, %d failed, %d left out\n", held, lost, outs
  printf "time          %d min %02d s\n", int(seconds / 60), seconds % 60
  for (i = 1; i <= failures; i++) printf "failed        %s\n", failed[i]
  for (i = 1; i <= outs; i++) printf "left out      %s\n", out[i]
}
