# Compiler settings, packages and the two helpers that every folder uses.
#
#   baton_library(name SOURCES a.c b.c LINK other...)   a static library; includes are from the root
#   baton_test(test_x.c LINK libs...)      a cmocka program, run by ctest as <room>/x ("common/text/json")

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv>=1.43)
pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq>=4.3)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c>=1.3)
find_program(PROTOC_C NAMES protoc-c protoc-gen-c REQUIRED)

# HTTP parser: llhttp where the distribution packages it (Ubuntu 24.04), else http-parser (Debian 12,
# Ubuntu 22.04). controller/http/parser.c is the one file that knows the difference.
find_path(LLHTTP_INCLUDE llhttp.h)
find_library(LLHTTP_LIB llhttp)
find_path(HTTP_PARSER_INCLUDE http_parser.h)
find_library(HTTP_PARSER_LIB http_parser)

add_library(baton_flags INTERFACE)
target_compile_definitions(baton_flags INTERFACE _GNU_SOURCE)
target_include_directories(baton_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_options(baton_flags INTERFACE
  -Wall -Wextra -Wpedantic -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wpointer-arith
  -Wwrite-strings -Wvla -fno-common -fno-strict-overflow -ffp-contract=off)
if(BATON_SANITIZE)
  target_compile_options(baton_flags INTERFACE -fsanitize=${BATON_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(baton_flags INTERFACE -fsanitize=${BATON_SANITIZE})
endif()

function(baton_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC baton_flags ${A_LINK})
endfunction()

# The unit tests mirror the tree: tests/unit/common/text/test_json.c tests common/text/json.c.
function(baton_test source)
  cmake_parse_arguments(A "" "TIMEOUT" "LINK;ARGS;LABELS" ${ARGN})
  file(RELATIVE_PATH room ${CMAKE_SOURCE_DIR}/tests ${CMAKE_CURRENT_SOURCE_DIR})
  string(REGEX REPLACE "^unit/" "" room ${room})
  string(REGEX REPLACE "^test_(.*)\\.c$" "${room}/\\1" name ${source})
  string(REPLACE "/" "_" target "test_${name}")
  add_executable(${target} ${source})
  target_link_libraries(${target} PRIVATE ${A_LINK} cmocka)
  target_compile_definitions(${target} PRIVATE BATON_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${target} ${A_ARGS})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "unit;${A_LABELS}"
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  if(BATON_SANITIZE STREQUAL "thread")
    set_tests_properties(${name} PROPERTIES ENVIRONMENT
      "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/tsan.supp halt_on_error=1 second_deadlock_stack=1")
  endif()
endfunction()

# Add the sub-folders that hold a CMakeLists.txt: rooms come and go without touching their parent.
function(baton_rooms)
  foreach(room ${ARGN})
    if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${room}/CMakeLists.txt)
      add_subdirectory(${room})
    endif()
  endforeach()
endfunction()
