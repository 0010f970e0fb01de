# nvmx_l1_image(NAME SOURCE...): target NAME makes NAME.elf, a freestanding multiboot image of L1, from SOURCE... and what every L1 needs
# (`nvmx_l1_base`: boot code, faults, serial line, VMX instructions). For the folders whose images stand on this one's.
set(nvmx_l1_folder ${CMAKE_CURRENT_LIST_DIR})
set(nvmx_l1_base boot.S entry.S probes.S cpu.c serial.c report.c vmx.c exit.c)
list(TRANSFORM nvmx_l1_base PREPEND ${nvmx_l1_folder}/)

if(NOT CMAKE_OBJCOPY)
    find_program(CMAKE_OBJCOPY objcopy REQUIRED)
endif()

function(nvmx_l1_image name)
    set(elf64 ${name}-64)
    set(script ${nvmx_l1_folder}/l1.ld)
    add_executable(${elf64} EXCLUDE_FROM_ALL ${nvmx_l1_base} ${ARGN})
    set_target_properties(${elf64} PROPERTIES
        C_STANDARD 11
        C_STANDARD_REQUIRED ON
        POSITION_INDEPENDENT_CODE OFF
        INTERPROCEDURAL_OPTIMIZATION OFF
        LINK_DEPENDS ${script})
    target_include_directories(${elf64} PRIVATE ${nvmx_l1_folder})
    # General registers only: L1 saves no vector state of L2, and has none of its own.
    target_compile_options(${elf64} PRIVATE
        -O2 -g -m64 -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fno-sanitize=all
        -fno-asynchronous-unwind-tables -fcf-protection=none
        $<$<COMPILE_LANGUAGE:C>:-mno-red-zone -mgeneral-regs-only -Wall -Wextra -Wconversion -Wshadow
            -Wmissing-prototypes -Wvla -Werror>)
    target_link_options(${elf64} PRIVATE
        -m64 -nostdlib -static -no-pie -fno-sanitize=all
        -Wl,-T,${script} -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack)
    # A multiboot-1 loader takes 32-bit ELF; the 64-bit file stays for symbols and debuggers.
    set(elf ${CMAKE_CURRENT_BINARY_DIR}/${name}.elf)
    add_custom_command(
        OUTPUT ${elf}
        COMMAND ${CMAKE_OBJCOPY} -g -O elf32-i386 $<TARGET_FILE:${elf64}> ${elf}
        DEPENDS ${elf64}
        VERBATIM)
    add_custom_target(${name} ALL DEPENDS ${elf})
endfunction()
