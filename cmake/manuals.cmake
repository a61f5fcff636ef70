# Writes manual pages and completions, which the program makes from its own definitions:
#   cmake -DPROGRAM=... -DOUT=... -P manuals.cmake
function(made file)
  cmake_path(GET file PARENT_PATH folder)
  file(MAKE_DIRECTORY ${folder})
  execute_process(COMMAND ${PROGRAM} ${ARGN} OUTPUT_FILE ${file} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

execute_process(COMMAND ${PROGRAM} help --list OUTPUT_VARIABLE commands COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]+" commands "${commands}")
made(${OUT}/man/man1/laos.1 help --man)
foreach(command IN LISTS commands)
  made(${OUT}/man/man1/laos-${command}.1 help --man ${command})
endforeach()
made(${OUT}/bash-completion/completions/laos completion bash)
made(${OUT}/zsh/site-functions/_laos completion zsh)
made(${OUT}/fish/vendor_completions.d/laos.fish completion fish)
