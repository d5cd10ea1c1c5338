# find_package(prn_fast REQUIRED COMPONENTS core inspector): targets prn_fast::core and prn_fast::inspector.
# Python3_EXECUTABLE chooses the Python that is embedded; its environment holds prn_fast.
if(NOT TARGET prn_fast_core)
  add_subdirectory("${CMAKE_CURRENT_LIST_DIR}/.." "${CMAKE_BINARY_DIR}/prn_fast" EXCLUDE_FROM_ALL)
endif()
set(prn_fast_core_FOUND TRUE)
if(TARGET prn_fast_inspector)
  set(prn_fast_inspector_FOUND TRUE)
endif()
foreach(component IN LISTS prn_fast_FIND_COMPONENTS)
  if(prn_fast_FIND_REQUIRED_${component} AND NOT prn_fast_${component}_FOUND)
    set(prn_fast_FOUND FALSE)
    set(prn_fast_NOT_FOUND_MESSAGE
        "prn_fast has no ${component} here; the inspector needs Python 3.11 or newer with its headers and library (Debian: apt-get install python3-dev), or set Python3_EXECUTABLE")
  endif()
endforeach()
