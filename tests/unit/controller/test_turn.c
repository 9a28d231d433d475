#include "tests/unit/controller/rig.h"
int main(void){return 0;}
