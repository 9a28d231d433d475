/* bench_engine --model DIR [flags]: wrk_tool_bench as a program of its own (worker/tool/tool.h has the flags). */
#include "worker/tool/tool.h"

int main(int argc, char **argv)
{
    return wrk_tool_bench(argc, argv);
}
