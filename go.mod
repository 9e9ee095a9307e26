module bootprof

go 1.26
