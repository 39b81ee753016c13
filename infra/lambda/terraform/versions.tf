terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The first with aws_lambda_permission.invoked_via_function_url, which a public URL needs.
      version = ">= 6.29, < 7.0"
    }
  }
}
