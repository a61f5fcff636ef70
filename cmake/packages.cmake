# What `cmake --install` puts where, and the Debian packages that cpack makes of it: laos, and laos-mpi with the one
# part that needs MPI. Everything is found relative to the program: a prefix may be moved.
install(TARGETS laos_exe RUNTIME DESTINATION bin COMPONENT laos)
install(DIRECTORY recipes calib tasks models DESTINATION share/laos COMPONENT laos)
install(DIRECTORY docs DESTINATION share/doc/laos COMPONENT laos FILES_MATCHING PATTERN "*.md" PATTERN "*.svg")
install(FILES README.md CHANGELOG.md DESTINATION share/doc/laos COMPONENT laos)
install(FILES LICENSE DESTINATION share/doc/laos COMPONENT laos RENAME copyright)
if(LAOS_WITH_MPI)
  install(TARGETS laos_mpi LIBRARY DESTINATION lib/laos COMPONENT mpi)
  install(FILES LICENSE DESTINATION share/doc/laos-mpi COMPONENT mpi RENAME copyright)
endif()
# Manual pages and completions are what the program says of itself; one for another processor cannot be asked.
if(NOT CMAKE_CROSSCOMPILING)
  set(manuals ${CMAKE_BINARY_DIR}/share)
  add_custom_command(OUTPUT ${manuals}/man/man1/laos.1 DEPENDS laos_exe cmake/manuals.cmake
                     COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:laos_exe> -DOUT=${manuals}
                             -P ${PROJECT_SOURCE_DIR}/cmake/manuals.cmake)
  add_custom_target(manuals ALL DEPENDS ${manuals}/man/man1/laos.1)
  install(DIRECTORY ${manuals}/ DESTINATION share COMPONENT laos)
endif()
# Of headers that are compiled into the program. Libraries that a package bundles bring their own: scripts/package.sh.
foreach(package libcli11-dev nlohmann-json3-dev libhwy-dev)
  install(FILES /usr/share/doc/${package}/copyright DESTINATION share/doc/laos/third-party COMPONENT laos
          RENAME ${package}.copyright OPTIONAL)
endforeach()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VENDOR laos)
set(CPACK_PACKAGE_CONTACT "laos developers <laos@example.org>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_COMPONENTS_ALL laos)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# The release of the system stands in the version, so that one directory holds the packages of all.
file(STRINGS /etc/os-release system REGEX "^(ID|VERSION_ID)=")
list(TRANSFORM system REPLACE "^[A-Z_]+=\"?([^\"]*)\"?$" "\\1")
list(SORT system ORDER DESCENDING)  # debian, 12
list(JOIN system "" system)
set(CPACK_DEBIAN_PACKAGE_RELEASE "1~${system}")
set(CPACK_DEBIAN_LAOS_PACKAGE_NAME laos)
# The first line of both is the project's own.
set(CPACK_DEBIAN_LAOS_DESCRIPTION "Turns a Hugging Face checkpoint into an accurate one of 4 or 8 bits, by fitted
rotations and by AutoRound or GPTQ, in the memory of one layer, and measures how good it is.")
set(CPACK_DEBIAN_LAOS_PACKAGE_RECOMMENDS laos-mpi)
if(LAOS_WITH_MPI)
  list(APPEND CPACK_COMPONENTS_ALL mpi)
  set(CPACK_DEBIAN_MPI_PACKAGE_NAME laos-mpi)
  set(CPACK_DEBIAN_MPI_DESCRIPTION "What laos loads where mpirun or srun started several ranks.")
  set(CPACK_DEBIAN_MPI_PACKAGE_DEPENDS "laos (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}), openmpi-bin")
endif()
include(CPack)
